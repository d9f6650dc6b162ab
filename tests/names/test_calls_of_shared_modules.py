"""A module that has several paths: ``@k`` counts its calls, and a path means the call that is made by it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import same

X = torch.rand(2, 4)


class TwoAttributes(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = self.b = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.a(self.b(x)))


class OneReLU(nn.Module):
    """The activation is read before a block calls it."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()
        self.first, self.second = (nn.Sequential(nn.Linear(4, 4), self.relu) for _ in range(2))

    def forward(self, x):
        return self.relu(self.second(self.first(x)) - 0.1)


class TwiceInAList(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.Linear(4, 4)
        self.layers = nn.ModuleList([layer, nn.Linear(4, 4), layer])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class TwiceInASequence(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.Linear(4, 4)
        self.layers = nn.Sequential(layer, nn.ReLU(), layer)

    def forward(self, x):
        return self.layers(x)


class ContainerByReference(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.tail = Refers(self.block)

    def forward(self, x):
        return self.tail(self.block(x))


class Refers(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.__dict__["block"] = block
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.block(x))


class ContainerInADict(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.others = nn.ModuleDict({"again": self.block})

    def forward(self, x):
        return self.others["again"](self.block(x))


def calls_of(model, path):
    """Run a model and return what the module at a path returned, call by call."""
    values = []
    handle = model.get_submodule(path).register_forward_hook(lambda module, args, result: values.append(result.clone()))
    model(X)
    handle.remove()
    return values


@pytest.mark.parametrize(
    ("kind", "paths"),
    [
        (TwoAttributes, ["a", "b"]),
        (OneReLU, ["relu", "first.1", "second.1"]),
        (TwiceInAList, ["layers.0", "layers.2"]),
        (TwiceInASequence, ["layers.0", "layers.2"]),
        (ContainerByReference, ["block"]),
        (ContainerByReference, ["block.0"]),
        (ContainerInADict, ["block", "others.again"]),
        (ContainerInADict, ["block.0", "others.again.0"]),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "+".join(value),
)
def test_calls_are_the_modules(kind, paths):
    model = kind()
    expected = calls_of(model, paths[0])
    names = [f"{path}@{call}" for path in paths for call in range(len(expected))]
    together = fxfeat.create_feature_extractor(model, names, example_inputs=X)(X)
    for name in names:
        alone = fxfeat.create_feature_extractor(model, [name], example_inputs=X)(X)
        call = int(name.rpartition("@")[2])
        assert same(alone[name], expected[call]), name
        assert same(together[name], expected[call]), name


@pytest.mark.parametrize(
    ("kind", "calls"),
    [
        (TwoAttributes, {"a": 0, "b": 0}),
        (OneReLU, {"first.1": 0, "second.1": 1, "relu": 2}),
        (TwiceInAList, {"layers.0": 0, "layers.2": 1}),
        (TwiceInASequence, {"layers.0": 0, "layers.2": 1}),
        (ContainerByReference, {"block.0": 0}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_path_alone(kind, calls):
    model = kind()
    expected = calls_of(model, next(iter(calls)))
    for name, call in calls.items():
        values = fxfeat.create_feature_extractor(model, [name], example_inputs=X)(X)
        assert same(values[name], expected[call]), name


def test_a_call_that_is_not_made():
    with pytest.raises(fxfeat.NodeNotFoundError) as error:
        fxfeat.create_feature_extractor(TwoAttributes(), ["b@2"], example_inputs=X)
    assert str(error.value) == "'b@2' was asked for, but 'b' is called 2 times; the last call is 'b@1'."
