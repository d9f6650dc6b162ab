"""What a module is called with, as a forward pre-hook that clones sees it."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from fxfeat import GuardError, NodeNotFoundError, RequestError, create_feature_extractor, verify
from tests.oracle import assert_equals_eager, assert_gradients_equal, assert_taps_equal_eager

X = torch.rand(2, 4)


class Attend(nn.Module):
    def forward(self, x, mask=None, *, scale):
        return (x + mask) * scale


class WritesBefore(nn.Module):
    """Writes to what it hands to a module, before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.attend, self.act = nn.Linear(4, 4), Attend(), nn.ReLU(inplace=True)

    def forward(self, x):
        h = self.first(x)
        h[:, 0] = 3
        y = self.attend(h, mask=h.mean(0), scale=x[0])
        h.mul_(2)
        return self.act(self.act(y - 1) + h)


class Lists(nn.Module):
    """Hands a list to a module."""

    def forward(self, parts):
        return torch.cat(parts, 1)


class Skips(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.join, self.inner = (
            nn.Linear(4, 4),
            Lists(),
            nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 2)),
        )

    def forward(self, x):
        return self.inner(self.join([x, self.first(x)]))


class Calls(nn.Module):
    """Calls a module for some inputs alone."""

    def __init__(self, test) -> None:
        super().__init__()
        self.linear, self.test = nn.Linear(4, 4), test

    def forward(self, x):
        if self.test(x):
            return self.linear(x)
        return x


class Draws(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        for _ in range(random.randint(2, 5)):
            x = self.linear(x + 1)
        return x


def hooked():
    """Hooks that change what modules are called with: by what they return, and in place, on leaves and others."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh()))
    model[1].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    model[1][0].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    model[1][1].register_forward_pre_hook(lambda module, args: args[0].mul_(3) is None or None)
    return model


NAMES = [
    "attend:in",
    "attend:in[0]",
    "attend:in['mask']",
    "attend:in['scale']",
    "act:in",
    "act@1:in",
    "first:in",
    "attend",
]


@pytest.mark.parametrize("engine", ("code", "tap"))
def test_inputs(engine):
    assert_equals_eager(WritesBefore(), NAMES, X, torch.rand(3, 4), engine=engine)
    assert_equals_eager(Skips(), ["join:in[0]", "join:in[0][1]", "inner:in", "inner.1:in"], X, engine=engine)


@pytest.mark.parametrize("engine", ("code", "tap"))
def test_hooks_before_forward_have_run(engine):
    model = hooked()
    for names in (["1:in"], ["1.0:in"], ["1.1:in"], ["0:in", "1.1:in", "1.0:in", "1:in"]):
        extractor = create_feature_extractor(model, names, example_inputs=X, engine=engine)
        assert verify(model, extractor, torch.rand(3, 4)).ok, extractor.code
    assert_equals_eager(hooked(), ["1:in", "1.0:in", "1.1:in", "1"], X, engine=engine)


def test_gradients():
    assert_gradients_equal(WritesBefore(), ["attend:in", "act@1:in"], X)


def test_what_a_module_is_in_is_opened_and_it_is_not():
    extractor = create_feature_extractor(Skips(), ["inner:in"], example_inputs=X)
    assert "self.inner" not in extractor.code
    assert extractor.emission.opened == ()


@pytest.mark.parametrize("test", (lambda x: x.shape[0] > 1, lambda x: x.sum() > 0))
def test_whether_the_module_is_called_is_checked(test):
    extractor = create_feature_extractor(Calls(test), ["linear:in"], example_inputs=X)
    with pytest.raises(GuardError):
        extractor(-torch.ones(1, 4))


def test_inputs_inside_modules_that_run_whole():
    model = nn.Sequential(nn.Linear(4, 4), Draws(), nn.Linear(4, 2))
    assert_taps_equal_eager(model, ["1.linear:in", "1.linear@1:in", "1:in", "2:in"], X, torch.rand(3, 4))


def error_of(model, query, **options):
    with pytest.raises((NodeNotFoundError, RequestError)) as caught:
        create_feature_extractor(model.eval(), [query], example_inputs=X, **options)
    return str(caught.value)


def test_errors():
    near = "Ask for 'attend:in[0]' or \"attend:in['mask']\" or \"attend:in['scale']\"."
    missing = "the module was not called with an argument that holds a tensor there."
    assert error_of(WritesBefore(), "attend:in[1]") == f"'attend:in[1]': {missing} {near}"
    assert error_of(WritesBefore(), "attend:in['x']") == f"\"attend:in['x']\": {missing} {near}"
    assert error_of(Skips(), "join:in") == (
        "'join:in': the module was not called with a positional argument that is a tensor. Ask for 'join:in[0]'."
    )
    assert error_of(Skips(), "first:in@0") == "'first:in@0': the call comes first, as in 'first@0:in'."
    assert error_of(WritesBefore(), "mean:in") == (
        "'mean:in': 'mean' is no call of a module, and only modules have inputs. Ask for what it is made from."
    )
    assert error_of(Skips(), "frist:in") == (
        "Skips has no node or module 'frist' in eval mode. Did you mean 'first'? fxfeat.get_graph_node_names(model) "
        "lists all 5 names."
    )
    assert error_of(nn.Sequential(nn.ModuleDict({"a": nn.ReLU()})["a"]), "0@1:in") == (
        "'0@1' was asked for, but '0' is called once; the last call is '0@0'."
    )
