"""Blocks that return more than one tensor: asked for whole, and element by element."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import assert_equals_eager, same, tap

X = torch.randn(2, 4)
LONGER = torch.randn(5, 4)
SERIES = torch.randn(2, 3, 4)


@dataclasses.dataclass
class Result:
    y: torch.Tensor
    aux: torch.Tensor | None = None
    count: int = 3


class Named(NamedTuple):
    y: torch.Tensor
    aux: torch.Tensor


class Plain:
    def __init__(self, y, aux):
        self.y, self.aux = y, aux


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.side = nn.Linear(4, 3)

    def wrap(self, y: torch.Tensor, aux: torch.Tensor) -> Any:
        raise NotImplementedError

    def forward(self, x):
        y = self.linear(x)
        return self.wrap(y + x, self.side(y))


class ReturnsTuple(Block):
    def wrap(self, y, aux):
        return y, aux


class ReturnsList(Block):
    def wrap(self, y, aux):
        return [y, aux]


class ReturnsDict(Block):
    def wrap(self, y, aux):
        return {"y": y, "aux": aux}


class ReturnsDataclass(Block):
    def wrap(self, y, aux):
        return Result(y, aux)


class ReturnsNamed(Block):
    def wrap(self, y, aux):
        return Named(y, aux)


class ReturnsPlain(Block):
    def wrap(self, y, aux):
        return Plain(y, aux)


class ReturnsNested(Block):
    def wrap(self, y, aux):
        return {"pair": (y, [aux, None]), "named": Named(aux, y), "size": y.shape[0], "k.e y": y}


READ = {
    ReturnsTuple: lambda held: held[0],
    ReturnsList: lambda held: held[0],
    ReturnsDict: lambda held: held["y"],
    ReturnsDataclass: lambda held: held.y,
    ReturnsNamed: lambda held: held.y,
    ReturnsPlain: lambda held: held.y,
    ReturnsNested: lambda held: held["pair"][0],
}


class Model(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block()
        self.read = READ[block]
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.read(self.block(x)))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn = kind(4, 5, batch_first=True)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        y, _ = self.rnn(x)
        return self.head(y[:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        y, _ = self.attention(x, x, x)
        tap("read", y)
        return self.head(y)


class Torn(nn.Module):
    """An operation that gives several tensors."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        y = self.linear(x).chunk(2, dim=1)
        tap("chunk", y)
        values, indices = y[0].max(dim=1)
        tap("max", torch.return_types.max((values, indices)))
        return values + y[1].sum(1)


CASES = [
    (ReturnsTuple, ["block", "block[0]", "block[1]", "block[-1]"]),
    (ReturnsList, ["block", "block[0]", "block[1]"]),
    (ReturnsDict, ["block", "block['y']", "block['aux']", 'block["aux"]']),
    (ReturnsDataclass, ["block"]),
    (ReturnsNamed, ["block", "block[0]", "block[1]"]),
    (
        ReturnsNested,
        ["block['pair']", "block['pair'][0]", "block['pair'][1][0]", "block['named'][0]", "block['k.e y']"],
    ),
]


@pytest.mark.parametrize(("block", "names"), CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_whole_and_by_element(block, names):
    assert_equals_eager(Model(block), [*names, "block.linear", "block.side", "head"], X, LONGER)


@pytest.mark.parametrize(("block", "names"), CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_as_the_models_own_result(block, names):
    names = [name.replace("block", "output", 1) for name in names]
    assert_equals_eager(block(), names, X, LONGER)


def test_recurrent_layers():
    assert_equals_eager(Recurrent(nn.LSTM), ["rnn", "rnn[0]", "rnn[1][0]", "rnn[1][1]", "rnn[1]"], SERIES)
    assert_equals_eager(Recurrent(nn.GRU), ["rnn[0]", "rnn[1]", "head"], SERIES)


def test_attention():
    assert_equals_eager(Attention(), ["attention[0]", "attention[1]", "head"], SERIES)


def test_an_operation_that_gives_several_tensors():
    assert_equals_eager(Torn(), ["linear", "chunk[0]", "chunk[1]", "chunk", "max[0]", "max[1]"], X, LONGER)


def test_no_such_element():
    model = Model(ReturnsTuple).eval()
    with pytest.raises(fxfeat.NodeNotFoundError) as caught:
        fxfeat.create_feature_extractor(model, ["block[2]"], example_inputs=X)
    assert str(caught.value) == "'block[2]': 'block' holds no tensor there. Ask for 'block[0]' or 'block[1]'."


def test_no_such_key():
    model = Model(ReturnsDict).eval()
    with pytest.raises(fxfeat.NodeNotFoundError) as caught:
        fxfeat.create_feature_extractor(model, ["block['z']"], example_inputs=X)
    assert str(caught.value) == (
        "\"block['z']\": 'block' holds no tensor there. Ask for \"block['y']\" or \"block['aux']\"."
    )


def test_no_such_element_of_an_operation():
    with pytest.raises(fxfeat.NodeNotFoundError) as caught:
        fxfeat.create_feature_extractor(Torn().eval(), ["chunk[2]"], example_inputs=X)
    assert str(caught.value) == "'chunk[2]': 'chunk' has 2 elements, so no 2."


def test_an_element_of_a_tensor():
    """A step into a plain tensor is no element of a structure."""
    with pytest.raises(fxfeat.NodeNotFoundError):
        fxfeat.create_feature_extractor(Torn().eval(), ["linear['a']"], example_inputs=X)


def test_a_plain_object_is_returned_as_it_is():
    model = Model(ReturnsPlain).eval()
    found = fxfeat.create_feature_extractor(model, ["block", "head"], example_inputs=X)(X)
    assert type(found["block"]) is Plain
    assert same(found["block"].y, model.block(X).y)
    assert same(found["block"].aux, model.block(X).aux)
    assert same(found["head"], model(X))


def test_a_plain_object_as_the_models_own_result_names_its_tensors():
    with pytest.raises(fxfeat.RequestError) as caught:
        fxfeat.create_feature_extractor(ReturnsPlain().eval(), ["output"], example_inputs=X)
    assert str(caught.value) == (
        "'output' holds a Plain, which cannot be written down as code. Ask for its tensors: 'output.y' or 'output.aux'."
    )


def test_the_tensors_that_the_error_names_can_be_asked_for():
    model = ReturnsPlain().eval()
    found = fxfeat.create_feature_extractor(model, ["output.y", "output.aux"], example_inputs=X)(X)
    assert same(found["output.y"], model(X).y)
    assert same(found["output.aux"], model(X).aux)


@pytest.mark.parametrize("block", [ReturnsDataclass, ReturnsPlain, ReturnsNamed], ids=lambda block: block.__name__)
def test_attributes_of_what_a_block_returned(block):
    model = Model(block).eval()
    found = fxfeat.create_feature_extractor(model, ["block.y", "block.aux"], example_inputs=X)(X)
    assert same(found["block.y"], model.block(X).y)
    assert same(found["block.aux"], model.block(X).aux)


@pytest.mark.parametrize("block", [ReturnsDataclass, ReturnsNamed], ids=lambda block: block.__name__)
def test_fields_of_what_a_block_returned(block):
    model = Model(block).eval()
    found = fxfeat.create_feature_extractor(model, ["block['y']", "block['aux']"], example_inputs=X)(X)
    assert same(found["block['y']"], model.block(X).y)
    assert same(found["block['aux']"], model.block(X).aux)
