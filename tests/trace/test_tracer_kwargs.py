"""torchvision's ``tracer_kwargs``."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import assert_equals_eager

X = torch.randn(2, 4)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return helper(self.linear(x)) + 1


def helper(x):
    return x.sigmoid() * x


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.block(x))


def names_of(tracer_kwargs):
    return fxfeat.get_graph_node_names(Model(), tracer_kwargs, example_inputs=X)[1]


def test_without():
    assert names_of(None) == ["x", "block.linear", "block.sigmoid", "block.mul", "block.add", "head"]


def test_leaf_modules():
    assert names_of({"leaf_modules": [Block]}) == ["x", "block", "head"]


def test_autowrap_functions():
    expected = ["x", "block.linear", "block.helper", "block.add", "head"]
    assert names_of({"autowrap_functions": [helper]}) == expected
    assert names_of({"autowrap_functions": (helper,)}) == expected


def test_autowrap_modules():
    assert "block.linear" in names_of({"autowrap_modules": (sys.modules[__name__],)})


def test_values():
    assert_equals_eager(Model(), ["block", "head"], X, tracer_kwargs={"leaf_modules": [Block]})
    assert_equals_eager(Model(), ["block.linear", "head"], X, tracer_kwargs={"autowrap_functions": [helper]})


def test_a_name_inside_a_leaf_module_opens_it():
    assert_equals_eager(Model(), ["block.linear", "block", "head"], X, tracer_kwargs={"leaf_modules": [Block]})


def test_not_modified():
    given = {"leaf_modules": [Block], "autowrap_functions": [helper]}
    fxfeat.create_feature_extractor(Model(), ["head"], tracer_kwargs=given, example_inputs=X)
    fxfeat.get_graph_node_names(Model(), given, example_inputs=X)
    assert given == {"leaf_modules": [Block], "autowrap_functions": [helper]}


def test_the_module_of_a_wrapped_function_is_put_back():
    before = helper
    names_of({"autowrap_functions": [helper]})
    assert globals()["helper"] is before


def test_unknown_key():
    with pytest.raises(fxfeat.RequestError) as caught:
        names_of({"leaf_module": [Block]})
    assert str(caught.value) == (
        "tracer_kwargs has ['leaf_module'], which fxfeat does not know. "
        "It knows leaf_modules, autowrap_functions, autowrap_modules."
    )
