"""Values returned as a dict, a tuple, a list or one by one."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from fxfeat import RequestError, create_feature_extractor, verify

X = torch.rand(2, 4)


def make():
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.ReLU(inplace=True), nn.Linear(8, 3)).eval()


class Scaled(nn.Module):
    """Takes a keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, offset=None, *, scale):
        return (self.linear(x) + offset) * scale


@pytest.mark.parametrize("engine", ("code", "tap"))
@pytest.mark.parametrize(("kind", "of"), (("tuple", tuple), ("list", list), ("dict", dict)))
def test_each_form(kind, of, engine):
    model = make()
    names = ["0", "output", "0:in"]
    expected = create_feature_extractor(model, names, example_inputs=X)(X)
    extractor = create_feature_extractor(model, names, example_inputs=X, return_type=kind, engine=engine)
    for other in (extractor, copy.deepcopy(extractor), pickle.loads(pickle.dumps(extractor))):
        values = other(X)
        assert type(values) is of
        values = list(values.values()) if of is dict else values
        assert all(map(torch.equal, values, expected.values()))
        assert verify(model, other, X).ok
    assert type(extractor.train()(X)) is of


def test_one_value():
    extractor = create_feature_extractor(make(), ["2"], example_inputs=X, return_type="tuple")
    assert extractor.code.endswith("    return (_2,)\n")
    assert len(extractor(X)) == 1


@pytest.mark.parametrize("kind", ("tuple", "list", "dict"))
def test_compiled_and_exported(kind):
    model = make()
    extractor = create_feature_extractor(model, ["0", "3"], example_inputs=X, return_type=kind)
    expected = list(extractor.by_key(extractor(X)).values())
    compiled = torch.compile(extractor, fullgraph=True, backend="eager")(X)
    exported = torch.export.export(extractor, (X,)).module()(X)
    traced = torch.fx.GraphModule(extractor, copy.deepcopy(extractor.graph))(X)
    for values in (compiled, exported, traced):
        values = list(values.values()) if kind == "dict" else values
        assert all(map(torch.equal, values, expected))


@pytest.mark.parametrize("kind", ("tuple", "dict"))
def test_a_single_value(kind):
    model = make()
    extractor = create_feature_extractor(model, {"0": "low", "3": "high"}, example_inputs=X, return_type=kind)
    single = extractor.single("high")
    expected = model(X)
    for other in (
        single,
        copy.deepcopy(single),
        pickle.loads(pickle.dumps(single)),
        torch.compile(single, fullgraph=True, backend="eager"),
        torch.export.export(single, (X,)).module(),
        torch.jit.trace(single, X),
    ):
        assert torch.equal(other(X), expected)
    assert single.train().extractor.training


def test_a_single_value_takes_what_the_model_takes():
    model, given = Scaled(), {"x": X, "offset": X, "scale": X}
    single = create_feature_extractor(model, ["output"], example_inputs=given).single("output")
    assert torch.equal(single(X, X + 1, scale=X), model(X, X + 1, scale=X))


def test_a_key_of_one_mode():
    model = make()
    extractor = create_feature_extractor(
        model, train_return_nodes=["0"], eval_return_nodes=["0", "3"], example_inputs=X
    )
    assert torch.equal(extractor.single("0")(X), model[0](X))
    with pytest.raises(RequestError) as caught:
        extractor.single("3")
    assert str(caught.value) == "'3' is not a key of this extractor in each mode, at one place. Its keys are '0', '3'."


def test_another_form():
    with pytest.raises(RequestError) as caught:
        create_feature_extractor(make(), ["0"], example_inputs=X, return_type="set")
    assert str(caught.value) == "return_type is 'set'; it must be 'dict', 'tuple' or 'list'."
