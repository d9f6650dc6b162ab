"""What a request may look like, and what is said about one that contradicts itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxfeat
from fxfeat import RequestError
from fxfeat.names.request import read_request
from tests.oracle import same

X = torch.randn(2, 4)


def model():
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def keys_of(request):
    return list(fxfeat.create_feature_extractor(model(), request, example_inputs=X)(X))


def error_of(*args, **kwargs):
    with pytest.raises(RequestError) as caught:
        fxfeat.create_feature_extractor(model(), *args, example_inputs=X, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize("request_", [["1", "0"], ("1", "0"), {"1": "1", "0": "0"}], ids=["list", "tuple", "dict"])
def test_keys_come_in_the_order_asked(request_):
    assert keys_of(request_) == ["1", "0"]


def test_a_mapping_renames():
    assert keys_of({"2": "head", "0": "stem"}) == ["head", "stem"]


def test_keys_may_be_any_text():
    assert keys_of({"0": "a.b c'\"\\\n", "1": "class", "2": "self"}) == ["a.b c'\"\\\n", "class", "self"]


def test_a_name_asked_twice():
    assert keys_of(["0", "1", "0"]) == ["0", "1"]


def test_two_keys_for_one_value():
    found = fxfeat.create_feature_extractor(model(), {"2": "a", "output": "b", "2@0": "c"}, example_inputs=X)(X)
    assert list(found) == ["a", "b", "c"]
    assert same(found["a"], found["b"])
    assert same(found["a"], found["c"])


def test_output():
    given = model()
    extractor = fxfeat.create_feature_extractor(given, ["output"], example_inputs=X)
    assert same(extractor(X)["output"], given(X))


class HasAnOutput(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.output = part

    def forward(self, x):
        y = self.output(x)
        return y, {"twice": y * 2}


@pytest.mark.parametrize("engine", ["code", "tap"])
@pytest.mark.parametrize("part", [nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU())])
def test_a_module_called_output_comes_first_and_the_empty_name_is_the_result(part, engine):
    given, x = HasAnOutput(part), torch.randn(2, 4)
    asked = {"output": "part", "": "all", "[1]['twice']": "twice"}
    values = fxfeat.create_feature_extractor(given, asked, example_inputs=x, engine=engine)(x)
    part_value, rest = given(x)
    assert same(values["part"], part_value) and same(values["all"][0], part_value)
    assert same(values["twice"], rest["twice"]) and same(values["all"][1]["twice"], rest["twice"])


def test_read_request():
    assert read_request(("a", "b")) == {"a": "a", "b": "b"}
    assert read_request({"a": "x", "b": "y"}) == {"x": "a", "y": "b"}


def test_two_names_for_one_key():
    assert error_of({"0": "same", "1": "same"}) == (
        "return_nodes gives the key 'same' to two nodes, '0' and '1'. Give each a key of its own."
    )


def test_empty():
    expected = "return_nodes is empty; name at least one node, as in return_nodes=['layer1']."
    assert error_of([]) == expected
    assert error_of({}) == expected


def test_a_string():
    assert error_of("0") == (
        "return_nodes is '0'; it must be a list of names, as in return_nodes=['layer1', 'layer2'], or a mapping from "
        "name to key, as in {'layer1': 'low'}."
    )


def test_a_number_for_a_name():
    assert error_of([0]) == "return_nodes holds 0, a int; names are strings."


def test_nothing():
    assert error_of() == ("Pass return_nodes: return_nodes=, or train_return_nodes= and eval_return_nodes= together.")


def test_one_mode_of_two():
    expected = (
        "Pass the other of the two as well: return_nodes=, or train_return_nodes= and eval_return_nodes= together."
    )
    assert error_of(train_return_nodes=["0"]) == expected
    assert error_of(eval_return_nodes=["0"]) == expected


def test_both_kinds():
    expected = "Pass return_nodes=, or train_return_nodes= and eval_return_nodes=, not both."
    assert error_of(["0"], ["0"], ["0"]) == expected
    assert error_of(["0"], train_return_nodes=["0"]) == expected


def test_errors_of_one_mode_say_which():
    assert error_of(train_return_nodes=["0"], eval_return_nodes={"0": "a", "1": "a"}) == (
        "eval_return_nodes gives the key 'a' to two nodes, '0' and '1'. Give each a key of its own."
    )


def test_a_model_that_is_none():
    with pytest.raises(RequestError) as caught:
        fxfeat.create_feature_extractor(torch.relu, ["relu"])
    assert str(caught.value) == "model is a builtin_function_or_method; it must be a torch.nn.Module."
