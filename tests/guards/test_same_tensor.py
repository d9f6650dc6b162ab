"""Inputs that are one tensor: code may ask ``context is x``."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import same

X, OTHER = torch.rand(2, 4), torch.rand(2, 4)


class AsksWhetherTheyAreOne(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.cross = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, context):
        return self.linear(x) if context is x else self.cross(context)


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))

    def forward(self, left, right):
        return self.encode(left) - self.encode(right)


class WritesToOne(nn.Module):
    def forward(self, x, y):
        x.add_(1)
        return x + y


def attention():
    torch.manual_seed(0)
    return nn.MultiheadAttention(4, 2, batch_first=True).eval()


@pytest.mark.parametrize(("example", "other"), [((X, X), (X, OTHER)), ((X, OTHER), (X, X))])
def test_code_that_asks_is_that_of_the_example(example, other):
    model = AsksWhetherTheyAreOne()
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=example)
    assert same(extractor(*example)["output"], model(*example))
    assert fxfeat.verify(model, extractor, *example).ok
    with pytest.raises(fxfeat.GuardError) as refused:
        extractor(*other)
    assert str(refused.value) == (
        f"This input takes another path than the recorded one: at the call: `context is x` the recording saw "
        f"{example[0] is example[1]}, this input gives {other[0] is other[1]}. Create the extractor again with "
        "example_inputs= like this input."
    )


@pytest.mark.parametrize("example", [(X, X), (X, OTHER)])
@pytest.mark.parametrize("given", [(X, X), (X, OTHER)])
def test_code_that_does_not_ask_takes_either(example, given):
    model = Siamese()
    extractor = fxfeat.create_feature_extractor(model, ["encode@0", "encode@1", "output"], example_inputs=example)
    assert same(extractor(*given)["output"], model(*given))
    assert fxfeat.verify(model, extractor, *given).ok
    assert " is " not in extractor.code


@pytest.mark.parametrize("example", [(X, X), (X, OTHER)])
def test_what_is_written_to_one_is_read_from_the_other(example):
    model = WritesToOne()
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=example)
    for given in [(X, X), (X, OTHER)]:
        left, right = ([x.clone() for x in given] for _ in range(2))
        if given[0] is given[1]:
            left[1], right[1] = left[0], right[0]
        try:
            found = extractor(*left)["output"]
        except fxfeat.GuardError:
            assert given is not example
            continue
        assert same(found, model(*right))


@pytest.mark.parametrize("length", [3, 5])
def test_attention_that_is_given_one_tensor_thrice(length):
    model, x = attention(), torch.rand(2, 3, 4)
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=(x, x, x))
    other = torch.rand(2, length, 4)
    assert same(extractor(other, other, other)["output"][0], model(other, other, other)[0])


def test_names_are_those_of_the_run_that_the_example_makes():
    x = torch.rand(2, 4)
    model = AsksWhetherTheyAreOne().eval()
    apart = fxfeat.get_graph_node_names(model, example_inputs=(x, x.clone()))
    together = fxfeat.get_graph_node_names(model, example_inputs=(x, x))
    assert apart != together
    for names, given in ((apart, (x, x.clone())), (together, (x, x))):
        extractor = fxfeat.create_feature_extractor(model, names[1], example_inputs=given)
        assert list(extractor(*given)) == names[1]
