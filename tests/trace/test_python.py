"""Python that models are written in, none of which a recording may trip over."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxfeat
from tests.oracle import assert_equals_eager, tap

X = torch.randn(2, 4)
LONGER = torch.randn(5, 4)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)


class Asserts(Base):
    def forward(self, x):
        assert x.dim() == 2 and x.size(-1) == 4, "a matrix of 4 columns"
        assert isinstance(x, torch.Tensor)
        assert x.dtype in (torch.float32, torch.bfloat16)
        assert not torch.jit.is_scripting()
        return self.head(self.linear(x))


class Tries(Base):
    def forward(self, x):
        try:
            y = self.missing(x)
        except AttributeError:
            y = self.linear(x)
        try:
            y = y.view(3, 7, 11)
        except RuntimeError:
            y = y + 1
        finally:
            y = y * 2
        return self.head(y)


class EarlyReturn(Base):
    def forward(self, x):
        y = self.linear(x)
        if not self.training:
            return y
        return self.head(y)


class Recursive(Base):
    def descend(self, x, depth):
        return x if depth == 0 else self.descend(self.linear(x), depth - 1)

    def forward(self, x):
        return self.head(self.descend(x, 3))


class Recursion(nn.Module):
    """A module that calls itself."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, depth: int = 2):
        y = self.linear(x)
        return y if depth == 0 else self(y, depth - 1)


class Callables(Base):
    def __init__(self):
        super().__init__()
        self.activation = lambda y: y.clamp(min=0)
        self.bound = self.double
        self.partial = functools.partial(F.leaky_relu, negative_slope=0.3)
        self.function = F.gelu
        self.table = {"tanh": torch.tanh}

    def double(self, y):
        return y * 2

    def forward(self, x):
        y = self.activation(self.linear(x))
        y = self.table["tanh"](self.function(self.partial(self.bound(y))))
        tap("tanh", y)
        return self.head(y)


class Unregistered(Base):
    """Modules in a plain list and dict, whose parameters the model does not own."""

    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(4, 4), nn.ReLU()]
        self.named = {"norm": nn.LayerNorm(4)}

    def forward(self, x):
        y = self.linear(x)
        for layer in self.layers:
            y = layer(y)
        return self.head(self.named["norm"](y))


class MadeInForward(Base):
    def forward(self, x):
        y = nn.ReLU()(self.linear(x))
        y = nn.Sequential(nn.Tanh(), nn.Flatten())(y)
        return self.head(y)


class NumPyConstants(Base):
    def __init__(self):
        super().__init__()
        self.scale = np.array([1.0, 2.0, 3.0, 4.0], dtype=np.float32)

    def forward(self, x):
        y = self.linear(x) * torch.from_numpy(self.scale)
        y = y + float(np.sqrt(np.float32(2.0)))
        tap("add", y)
        return self.head(y)


class NumPyArgument(Base):
    def forward(self, x):
        y = self.linear(x)
        y = y + torch.as_tensor(np.arange(4), dtype=y.dtype)
        return self.head(y)


class ItemOfABuffer(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("temperature", torch.tensor(3.0))

    def forward(self, x):
        return self.head(self.linear(x) / self.temperature.item())


class Generators(Base):
    def parts(self, y):
        yield y * 2
        yield from (y + index for index in range(2))

    def forward(self, x):
        *rest, last = self.parts(self.linear(x))
        y = {"a": last, **{str(i): held for i, held in enumerate(rest)}}
        return self.head(sum(y.values()))


class WalksChildren(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.by_name = nn.ModuleDict({"a": nn.Tanh(), "b": nn.ReLU()})

    def forward(self, x):
        kept = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in (0, 2):
                kept.append(x)
        for name, module in self.by_name.items():
            x = module(x) if name != "skip" else x
        return torch.stack([*kept, x])


class StateOnSelf(Base):
    """A value is handed on by way of an attribute."""

    def forward(self, x):
        self.kept = self.linear(x)
        return self.finish()

    def finish(self):
        y = self.kept + 1
        del self.kept
        return self.head(y)


class HooksInside(Base):
    """A forward hook of the model's own changes what a child returns."""

    def __init__(self):
        super().__init__()
        self.linear.register_forward_hook(lambda module, args, result: result * 3)
        self.head.register_forward_pre_hook(lambda module, args: (args[0] - 1,))

    def forward(self, x):
        return self.head(self.linear(x))


class CallsForward(Base):
    """``child.forward(x)`` is no module call."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x):
        return self.head(self.block.forward(self.linear(x)))


class ParameterOfRoot(Base):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 4))
        self.scales = nn.ParameterList([torch.randn(4), torch.randn(4)])

    def forward(self, x):
        y = torch.cat([self.token.expand(x.shape[0], -1) * self.scales[0], self.linear(x) * self.scales[1]])
        tap("cat", y)
        return self.head(y)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (Asserts, ["linear", "head"]),
        (Tries, ["linear", "head"]),
        (EarlyReturn, ["linear", "output"]),
        (Recursive, ["linear", "linear@2", "head"]),
        (Callables, ["linear", "tanh", "head"]),
        (Unregistered, ["linear", "head"]),
        (MadeInForward, ["linear", "head"]),
        (NumPyConstants, ["linear", "add", "head"]),
        (ItemOfABuffer, ["linear", "head"]),
        (Generators, ["linear", "head"]),
        (WalksChildren, ["blocks.0", "blocks.2", "by_name.a", "output"]),
        (StateOnSelf, ["linear", "head"]),
        (HooksInside, ["linear", "head"]),
        (CallsForward, ["linear", "block.0", "block.1", "head"]),
        (ParameterOfRoot, ["linear", "cat", "head"]),
    ],
    ids=lambda case: getattr(case, "__name__", ""),
)
def test_equals_eager(model, names):
    assert_equals_eager(model(), names, X, LONGER)


def test_a_module_that_calls_itself():
    model = Recursion()
    extractor = fxfeat.create_feature_extractor(model, ["output", "linear", "linear_2"], example_inputs=X)
    found = extractor(X)
    assert torch.equal(found["output"], model(X))
    assert torch.equal(found["linear"], model.linear(X))
    assert torch.equal(found["linear_2"], model(X))


def test_an_array_as_an_argument_is_eagers_or_a_clear_error():
    try:
        assert_equals_eager(NumPyArgument(), ["linear", "head"], X, LONGER)
    except fxfeat.TraceError as error:
        assert "uses an argument of type ndarray, which cannot be written down as code." in str(error)
    assert_equals_eager(NumPyArgument(), ["linear"], X, LONGER)
