"""Objects that hold tensors: changed on their way from block to block, or written over after they were a feature."""

from __future__ import annotations

import collections
import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import assert_taps_equal_eager, call, run

X = torch.randn(2, 3)
LONGER = torch.randn(4, 3)

Pair = collections.namedtuple("Pair", "x y")


@dataclasses.dataclass
class State:
    x: torch.Tensor


class Block(nn.Module):
    """Changes the object that it is given, and returns it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, state):
        state.x = self.linear(state.x).relu()
        return state


class Stack(nn.Module):
    def __init__(self, factory):
        super().__init__()
        self.factory = factory
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        state = self.factory(x=x)
        for block in self.blocks:
            state = block(state)
        return self.head(state.x)


class ChangedInBetween(Stack):
    def forward(self, x):
        state = self.blocks[0](self.factory(x=x))
        state.x = state.x + 1
        self.blocks[1](state)
        return self.head(self.blocks[2](state).x)


class Packs(nn.Module):
    def __init__(self, pack):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.pack = pack

    def forward(self, x):
        return self.pack(self.linear(x), x)


class WritesOverThePacked(nn.Module):
    def __init__(self, pack, take):
        super().__init__()
        self.block = Packs(pack)
        self.take = take
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.take(self.block(x)))


def copied(value):
    """Copy an object with its tensors, as a hook that keeps what it sees has to."""
    return {name: held.clone() for name, held in parts(value).items()}


def parts(value):
    if isinstance(value, torch.Tensor):
        return {"": value}
    if isinstance(value, tuple):
        value = dict(enumerate(value))
    return dict(value if isinstance(value, dict) else vars(value))


def seen(model, names, inputs):
    """Collect what the last call of each module returned, as it was then."""
    found = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda module, args, result, name=name: found.update({name: copied(result)})
        )
        for name in names
    ]
    call(model, inputs)
    for hook in hooks:
        hook.remove()
    return found


def assert_seen(model, names):
    extractor = fxfeat.create_feature_extractor(model, names, example_inputs=X)
    for inputs in (X, LONGER):
        expected, actual = seen(model, names, inputs), run(extractor, inputs)
        for name in names:
            found = parts(actual[name])
            assert found.keys() == expected[name].keys()
            assert all(torch.equal(found[key], expected[name][key]) for key in found), name


@pytest.mark.parametrize("kind", [Stack, ChangedInBetween])
@pytest.mark.parametrize("names", [["head"], ["blocks.1"], ["blocks.0", "blocks.2"], ["blocks.0.linear", "head"]])
def test_an_object_that_each_block_changes(kind, names):
    assert_seen(kind(State), names)


@pytest.mark.parametrize("names", [["head"], ["blocks.1.linear", "head"]])
def test_an_object_of_no_known_kind_that_each_block_changes(names):
    assert_seen(Stack(SimpleNamespace), names)


def test_an_object_that_open_code_makes_is_no_feature():
    with pytest.raises(fxfeat.TraceError) as caught:
        fxfeat.create_feature_extractor(Stack(SimpleNamespace), ["blocks.1"], example_inputs=X, engine="code")
    assert_taps_equal_eager(Stack(SimpleNamespace), ["blocks.1"], X)
    assert str(caught.value) == (
        "'blocks.1' holds a SimpleNamespace, which cannot be written down as code. Ask for its tensors one by one, or "
        "for nothing inside the module."
    )


@pytest.mark.parametrize(
    ("pack", "take"),
    [
        (Pair, lambda pair: pair.x),
        (lambda x, y: State(x), lambda state: state.x),
        (lambda x, y: collections.OrderedDict(x=x, y=y), lambda held: held["x"]),
        (lambda x, y: SimpleNamespace(x=x, y=y), lambda held: held.x),
        (lambda x, y: collections.defaultdict(list, x=x, y=y), lambda held: held["x"]),
        (lambda x, y: {"x": x, "y": y}, lambda held: held["x"]),
    ],
    ids=["named tuple", "dataclass", "ordered dict", "plain object", "default dict", "dict"],
)
def test_an_object_whose_tensor_is_written_over_is_kept(pack, take):
    assert_seen(WritesOverThePacked(pack, take), ["block", "relu"])
