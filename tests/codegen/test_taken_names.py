"""Models whose parts are called what the extractor calls something of its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.oracle import assert_equals_eager

X = torch.randn(2, 4)
LONGER = torch.randn(5, 4)
TAKEN = ["code", "graph", "guards", "rows", "forms", "features", "torch", "check", "self", "_constant_0"]


class Child(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name
        self.add_module(name, nn.Linear(4, 4))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(getattr(self, self.name)(x) * torch.tensor([1.0, 2.0, 3.0, 4.0]))


class Buffer(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name
        self.register_buffer(name, torch.tensor([1.0, 2.0, 3.0, 4.0]))
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x * getattr(self, self.name) + torch.tensor([5.0, 6.0, 7.0, 8.0]))


class Arguments(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.constant = torch.tensor([1.0, 2.0, 3.0, 4.0])

    def forward(self, torch, check, _constant_0, len):
        assert check.shape[0] > 1
        return self.linear(torch.relu() * self.constant) + _constant_0 - len + check.chunk(2)[0]


@pytest.mark.parametrize("name", TAKEN)
def test_a_child(name):
    assert_equals_eager(Child(name), [name, "head"], X, LONGER)


@pytest.mark.parametrize("name", TAKEN)
def test_a_buffer(name):
    assert_equals_eager(Buffer(name), ["linear"], X, LONGER)


def test_arguments():
    example, other = ({"torch": x, "check": x[:2], "_constant_0": x[:1], "len": x} for x in (X, X + 1))
    assert_equals_eager(Arguments(), ["linear", "output"], example, other)


@pytest.mark.parametrize("name", ["keys", "items", "values"])
def test_a_grandchild_called_like_a_method_of_dict(name):
    model = nn.Sequential(Child(name), nn.Linear(2, 2))
    assert_equals_eager(model, [f"0.{name}", "0", "1"], X, LONGER)


class Numbered(nn.Module):
    """Calls a sequence whole, and later its children, whose names are numbers but not their positions."""

    def __init__(self, names, kind=nn.Sequential):
        super().__init__()
        self.layers = kind()
        for name in names:
            self.layers.add_module(name, nn.Linear(4, 4))

    def forward(self, x):
        x = self.layers(x)
        for layer in self.layers.children():
            x = layer(x) + 1
        return x


class Reversed(nn.Sequential):
    def __getitem__(self, index):
        return super().__getitem__(len(self) - 1 - index)


NUMBERS = [("0", "1"), ("1", "0"), ("2", "3"), ("0", "01"), ("0", "²"), ("ﬁ", "fi")]


@pytest.mark.parametrize("kind", [nn.Sequential, Reversed])
@pytest.mark.parametrize("names", NUMBERS, ids="".join)
def test_children_that_are_called_by_numbers(names, kind):
    first, second = (f"layers.{name}" for name in names)
    assert_equals_eager(Numbered(names, kind), ["layers", f"{first}@1", f"{second}@1", "output"], X, LONGER)
    assert_equals_eager(Numbered(names, kind), [f"{first}@0", f"{second}@1"], X, LONGER)


class CalledLikePythons(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, len, isinstance, float, builtins=None):
        return self.head(len[0] + isinstance["a"] + float.clamp(max=torch.inf)[0:4:1])


def test_arguments_that_are_called_like_functions_of_pythons():
    x = torch.randn(4, 4)
    assert_equals_eager(CalledLikePythons(), ["head"], ([x], {"a": x}, x))
