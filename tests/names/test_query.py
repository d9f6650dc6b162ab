"""What a typed name means: a listed node, what a module returned, a call, an element, or an error that helps."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import fxfeat
from fxfeat import NodeNotFoundError
from fxfeat.names.query import Parsed, parse_query
from tests.oracle import assert_equals_eager, same, tap

X = torch.randn(2, 4)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x).relu() + x


class CalledThrice(nn.Module):
    def __init__(self):
        super().__init__()
        self.b = Block()

    def forward(self, x):
        return self.b(self.b(self.b(x)))


class Identity(nn.Module):
    def forward(self, x):
        return x


class WithIdentity(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.identity = Identity()
        self.nothing = nn.Identity()
        self.empty = nn.Sequential()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.empty(self.nothing(self.identity(self.linear(x)))))


class ReturnsEarlierValue(nn.Module):
    """The block's last operation is not its result."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.other = nn.Linear(4, 4)
        self.last = None

    def forward(self, x):
        y = self.linear(x)
        self.other(y).sum()
        return y


class LastIsNotResult(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = ReturnsEarlierValue()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.block(x))


class OneValueTwoNames(nn.Module):
    """``layer`` returns what ``layer.1`` returned."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(4, 4), Block())

    def forward(self, x):
        return self.layer(x).relu()


class TrainOnly(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.aux = nn.Linear(4, 2)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        y = self.linear(x)
        if self.training:
            return self.head(y), self.aux(y)
        return self.head(y)


def error_of(model, request, **options) -> str:
    options.setdefault("example_inputs", X)
    with pytest.raises(NodeNotFoundError) as caught:
        fxfeat.create_feature_extractor(model, request, **options)
    return str(caught.value)


def test_each_call_of_a_block_and_the_last():
    assert_equals_eager(CalledThrice(), ["b@0", "b@1", "b@2", "b", "b.linear", "b.linear@2"], X, torch.randn(7, 4))


def test_the_bare_name_is_the_last_call():
    model = CalledThrice()
    found = fxfeat.create_feature_extractor(model, ["b@2", "b", "output"], example_inputs=X)(X)
    assert same(found["b"], found["b@2"])
    assert same(found["b"], model(X))
    assert same(found["output"], model(X))


def test_a_truncated_path_of_any_length():
    model = nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Tanh()), nn.Linear(4, 2))
    assert_equals_eager(model, ["0", "0.0", "0.0.0", "0.0.1", "0.1", "1", "output"], X)


def test_identities_return_what_they_are_given():
    names = ["linear", "identity", "nothing", "empty", "head"]
    assert_equals_eager(WithIdentity(), names, X, torch.randn(3, 4))


def test_an_identity_alone():
    for name in ("identity", "nothing", "empty"):
        assert_equals_eager(WithIdentity(), [name], X)


def test_a_block_whose_last_operation_is_not_its_result():
    assert_equals_eager(LastIsNotResult(), ["block", "block.linear", "block.other"], X, torch.randn(3, 4))


def test_two_names_of_one_value_in_either_order():
    for request in (["layer", "layer.1"], ["layer.1", "layer"]):
        model = OneValueTwoNames()
        extractor = fxfeat.create_feature_extractor(model, request, example_inputs=X)
        found = extractor(X)
        assert list(found) == request
        assert same(found["layer"], model.layer(X))
        assert same(found["layer.1"], model.layer(X))


def test_the_models_input_is_a_feature():
    assert same(fxfeat.create_feature_extractor(CalledThrice(), ["x"], example_inputs=X)(X)["x"], X)


def test_names_inside_a_leaf_open_it():
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x = torch.randn(2, 3, 4)
    assert_equals_eager(model, ["layers.0", "layers.1"], x, torch.randn(3, 5, 4), modes=[True])


def test_names_inside_a_leaf_of_a_child():
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.Linear(4, 4), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Tanh())
    x = torch.randn(2, 3, 4)
    assert_equals_eager(model, ["1.layers.0", "1.layers.0.linear1", "1"], x, modes=[True])


def test_names_inside_a_leaf_in_eval_mode_are_eagers_or_a_clear_error():
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.Linear(4, 4), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)).eval()
    x = torch.randn(2, 3, 4)
    assert_equals_eager(model, ["1.layers.0", "1"], x, modes=[False])


def test_unknown_name():
    assert error_of(CalledThrice().eval(), ["b.linaer"]) == (
        "CalledThrice has no node or module 'b.linaer' in eval mode. Did you mean 'b.linear' or 'b.linear_2' or "
        "'b.linear_1'? fxfeat.get_graph_node_names(model) lists all 10 names."
    )


def test_unknown_name_that_is_like_nothing():
    assert error_of(CalledThrice().eval(), ["zzzzzzz"]) == (
        "CalledThrice has no node or module 'zzzzzzz' in eval mode. "
        "fxfeat.get_graph_node_names(model) lists all 10 names."
    )


def test_a_call_too_many():
    expected = "'b@3' was asked for, but 'b' is called 3 times; the last call is 'b@2'."
    assert error_of(CalledThrice(), ["b@3"]) == expected
    expected = "'layer@1' was asked for, but 'layer' is called once; the last call is 'layer@0'."
    assert error_of(OneValueTwoNames(), ["layer@1"]) == expected


def test_no_number_after_the_at():
    expected = "'b@last': after '@' comes the number of the call, from 0, as in 'b@0', or a star for all calls."
    assert error_of(CalledThrice(), ["b@last"]) == expected


def test_brackets_that_cannot_be_read():
    assert error_of(CalledThrice(), ["b[0"]) == "'b[0': write elements as name[0] or name['key']."


def test_a_module_that_does_not_run():
    model = CalledThrice()
    model.unused = nn.Linear(4, 4)
    assert error_of(model.train(), ["unused"]) == (
        "'unused' is a module of CalledThrice, but its forward does not run in train mode."
    )


def test_a_name_of_train_mode_only():
    for training in (True, False):
        model = TrainOnly().train(training)
        extractor = fxfeat.create_feature_extractor(model, ["linear", "aux"], example_inputs=X)
        assert list(extractor.train()(X)) == ["linear", "aux"]
        assert "does not run in eval mode" in repr(extractor.eval())
        for lacks in (extractor, pickle.loads(pickle.dumps(extractor)), copy.deepcopy(extractor)):
            with pytest.raises(NodeNotFoundError) as caught:
                lacks(X)
            message = "'aux' is a module of TrainOnly, but its forward does not run in eval mode."
            assert str(caught.value).startswith(message)


def test_a_name_that_both_modes_lack():
    for training, mode in ((True, "train"), (False, "eval")):
        message = error_of(TrainOnly().train(training), ["linear", "auxiliary"])
        assert message.startswith(f"TrainOnly has no node or module 'auxiliary' in {mode} mode.")


def test_a_request_for_each_mode():
    model = TrainOnly()
    extractor = fxfeat.create_feature_extractor(
        model, train_return_nodes=["aux"], eval_return_nodes=["head"], example_inputs=X
    )
    y = model.linear(X)
    assert list(extractor.train()(X)) == ["aux"]
    assert same(extractor(X)["aux"], model.aux(y))
    assert list(extractor.eval()(X)) == ["head"]
    assert same(extractor(X)["head"], model.head(y))


def test_a_request_for_each_mode_is_checked_in_its_mode():
    with pytest.raises(NodeNotFoundError, match="in eval mode"):
        fxfeat.create_feature_extractor(
            TrainOnly(), train_return_nodes=["aux"], eval_return_nodes=["aux"], example_inputs=X
        )


def test_output_differs_with_the_mode():
    model = TrainOnly()
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=X)
    assert same(extractor.eval()(X)["output"], model.eval()(X))
    found, expected = extractor.train()(X)["output"], model.train()(X)
    assert isinstance(found, tuple)
    assert same(found[0], expected[0])
    assert same(found[1], expected[1])


@pytest.mark.parametrize(
    ("query", "parsed"),
    [
        ("layer1", Parsed("layer1", None, ())),
        ("layer1.0.relu_1", Parsed("layer1.0.relu_1", None, ())),
        ("b@2", Parsed("b", 2, ())),
        ("b[0]", Parsed("b", None, (("item", 0),))),
        ("b[-1]", Parsed("b", None, (("item", -1),))),
        ("b['k'][1]", Parsed("b", None, (("item", "k"), ("item", 1)))),
        ('b@0["a.b"]', Parsed("b", 0, (("item", "a.b"),))),
        ("b[0].tensors", Parsed("b", None, (("item", 0), ("attr", "tensors")))),
    ],
)
def test_parsed(query, parsed):
    assert parse_query(query) == parsed


def test_tap_does_nothing_outside_the_oracle():
    tap("anything", X)


class Pair(nn.Sequential):
    """A leaf of the user's, called twice."""


class CallsAPairTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.pair = Pair(nn.Linear(4, 4), nn.Tanh())

    def forward(self, x):
        return self.pair(self.pair(x))


def test_a_leafs_name_means_the_same_whether_or_not_a_name_lies_inside_it():
    model, x = CallsAPairTwice(), torch.randn(2, 4)
    once, twice = model.pair(x), model.pair(model.pair(x))
    kwargs = {"tracer_kwargs": {"leaf_modules": [Pair]}, "example_inputs": x}
    for names in (["pair", "pair_1"], ["pair", "pair_1", "pair.0"]):
        found = fxfeat.create_feature_extractor(model, names, **kwargs)(x)
        assert torch.equal(found["pair"], once)
        assert torch.equal(found["pair_1"], twice)


class TakesAnOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, output=None):
        return {"sum": self.layer(x) + output}


@pytest.mark.parametrize("engine", ["auto", "tap"])
def test_an_argument_of_the_name_of_the_result_gives_way(engine):
    model, given = TakesAnOutput(), (torch.rand(2, 4), torch.rand(2, 4))
    names = ["output", "output['sum']"]
    extractor = fxfeat.create_feature_extractor(model, names, example_inputs=given, engine=engine)
    values = extractor(*given)
    assert torch.equal(values["output"]["sum"], model(*given)["sum"])
    assert torch.equal(values["output['sum']"], model(*given)["sum"])
