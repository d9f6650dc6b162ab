"""The names that nodes get: torchvision's convention, and every module's own path left alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import fxfeat
from tests.oracle import assert_equals_eager, tap

X = torch.randn(2, 4)


def names_of(model, example=X):
    train, evaluation = fxfeat.get_graph_node_names(model, example_inputs=example)
    assert train == evaluation
    return evaluation


class NumberedSiblings(nn.Module):
    """``conv`` is called twice beside children that are called like a repeat of it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Linear(4, 4)
        self.conv_1 = nn.Linear(4, 4)
        self.conv_2 = nn.Linear(4, 4)

    def forward(self, x):
        x = self.conv_2(self.conv_1(self.conv(x)))
        second = self.conv(x)
        tap("conv_3", second)
        return second


class NumberedSiblingsCalledLate(NumberedSiblings):
    def forward(self, x):
        second = self.conv(self.conv(x))
        tap("conv_3", second)
        return self.conv_2(self.conv_1(second))


class UnderscoreAndDot(nn.Module):
    """``l_0.a`` and ``l.0.a`` are two modules."""

    def __init__(self):
        super().__init__()
        self.l_0 = nn.ModuleDict({"a": nn.Linear(4, 4)})
        self.l = nn.ModuleList([nn.ModuleDict({"a": nn.Linear(4, 4)})])

    def forward(self, x):
        return self.l[0]["a"](torch.relu(self.l_0["a"](x)))


class Pluses(nn.Module):
    """A child's name may hold what a regular expression would read as an operator."""

    def __init__(self):
        super().__init__()
        self.add_module("c+", nn.Linear(4, 4))
        self.add_module("cc", nn.Linear(4, 4))
        self.add_module("c*[a-z]", nn.Linear(4, 4))
        self.add_module("class", nn.Linear(4, 4))
        self.add_module("a b", nn.Linear(4, 4))

    def forward(self, x):
        for name in ("cc", "c+", "c*[a-z]", "class", "a b"):
            x = getattr(self, name)(x)
        return x


class Block(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.activation = activation

    def forward(self, x):
        return x + self.activation(self.linear(x))


class SharedActivation(nn.Module):
    """One activation object under two paths."""

    def __init__(self):
        super().__init__()
        activation = nn.ReLU()
        self.a = Block(activation)
        self.b = Block(activation)

    def forward(self, x):
        return self.b(self.a(x))


class SharedByDefault(SharedActivation):
    """The shared module is reached by another path first than the one it is registered under first."""

    def forward(self, x):
        return self.a(self.b(x))


class Operations(nn.Module):
    def forward(self, x):
        y = x + 1
        y += x
        y = y * 2 - x / 3
        y = F.relu(y).relu()
        y = torch.flatten(y, 1)
        y = -y @ y.t()
        y = torch.cat([y, y], 1).mean(dim=1)
        return y[0] // 2


class ReusedLeaf(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.relu = nn.ReLU()

    def forward(self, x):
        x = self.relu(self.linear(x))
        x = self.relu(self.linear(x) - 1)
        tap("relu_1", x)
        x = self.relu(x - 1)
        tap("relu_2", x)
        return x


class FunctionLikeAChild(nn.Module):
    """``F.relu`` beside a child of that name that is never called, and beside one that is."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        first = F.relu(x)
        tap("relu_1", first)
        return self.relu(self.linear(first))


class AsksTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block(nn.ReLU())

    def forward(self, x):
        return self.block(self.block(self.block(x)))


def test_a_repeat_does_not_take_a_siblings_name():
    assert names_of(NumberedSiblings()) == ["x", "conv", "conv_1", "conv_2", "conv_3"]


def test_a_repeat_does_not_take_the_name_of_a_sibling_called_later():
    assert names_of(NumberedSiblingsCalledLate()) == ["x", "conv", "conv_3", "conv_1", "conv_2"]


def test_numbered_siblings_are_themselves():
    names = ["conv", "conv_1", "conv_2", "conv_3"]
    assert_equals_eager(NumberedSiblings(), names, X)
    assert_equals_eager(NumberedSiblingsCalledLate(), names, X)


def test_an_underscore_is_no_dot():
    assert names_of(UnderscoreAndDot()) == ["x", "l_0.a", "relu", "l.0.a"]
    assert_equals_eager(UnderscoreAndDot(), ["l_0.a", "l.0.a"], X)


def test_a_containers_name_is_what_ran_last_in_it():
    model = UnderscoreAndDot()
    found = fxfeat.create_feature_extractor(model, ["l", "l_0", "l.0"], example_inputs=X)(X)
    exact = fxfeat.create_feature_extractor(model, ["l.0.a", "l_0.a"], example_inputs=X)(X)
    assert torch.equal(found["l"], exact["l.0.a"])
    assert torch.equal(found["l.0"], exact["l.0.a"])
    assert torch.equal(found["l_0"], exact["l_0.a"])


def test_odd_child_names():
    assert names_of(Pluses()) == ["x", "cc", "c+", "c*[a-z]", "class", "a b"]
    assert_equals_eager(Pluses(), ["c+", "cc", "c*[a-z]", "class", "a b"], X)


def test_a_shared_module_is_named_by_the_path_it_was_reached_by():
    expected = ["x", "a.linear", "a.activation", "a.add", "b.linear", "b.activation", "b.add"]
    assert names_of(SharedActivation()) == expected
    expected = ["x", "b.linear", "b.activation", "b.add", "a.linear", "a.activation", "a.add"]
    assert names_of(SharedByDefault()) == expected


def test_values_of_a_shared_module():
    for model in (SharedActivation(), SharedByDefault()):
        a, b = model.a, model.b
        found = fxfeat.create_feature_extractor(model, ["a.activation", "b.activation"], example_inputs=X)(X)
        first, second = (a, b) if type(model) is SharedActivation else (b, a)
        once = first(X)
        expected = {
            "a" if first is a else "b": first.linear(X).relu(),
            "b" if first is a else "a": second.linear(once).relu(),
        }
        assert torch.equal(found["a.activation"], expected["a"])
        assert torch.equal(found["b.activation"], expected["b"])


def test_operations_are_named_for_what_they_do():
    assert names_of(Operations()) == [
        *(
            "x",
            "add",
            "add_1",
            "mul",
            "truediv",
            "sub",
            "relu",
            "relu_1",
            "flatten",
            "neg",
            "t",
            "matmul",
            "cat",
            "mean",
        ),
        *("getitem", "floordiv"),
    ]


def test_a_listed_leaf_is_its_first_call_and_repeats_are_numbered():
    assert names_of(ReusedLeaf()) == ["x", "linear", "relu", "linear_1", "sub", "relu_1", "sub_1", "relu_2"]
    assert_equals_eager(ReusedLeaf(), ["relu", "relu_1", "relu_2", "relu@0", "relu@1", "relu@2"], X)


def test_a_function_does_not_take_a_childs_name():
    assert names_of(FunctionLikeAChild()) == ["x", "relu_1", "linear", "relu"]
    assert_equals_eager(FunctionLikeAChild(), ["relu", "relu_1"], X)


def test_operations_of_a_block_called_often_are_numbered():
    assert names_of(AsksTwice()) == [
        *("x", "block.linear", "block.activation", "block.add", "block.linear_1", "block.activation_1", "block.add_1"),
        *("block.linear_2", "block.activation_2", "block.add_2"),
    ]


def test_names_are_unique_and_in_order_of_running():
    names = names_of(nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(12))))
    assert names == ["input", *(f"{block}.{leaf}" for block in range(12) for leaf in (0, 1))]


def test_warns_where_modes_differ():
    model = nn.Sequential(nn.Linear(4, 4), TrainOnly())
    with warns() as caught:
        train, evaluation = fxfeat.get_graph_node_names(model, example_inputs=X)
    assert train == ["input", "0", "1.add"]
    assert evaluation == ["input", "0"]
    assert [str(held.message) for held in caught] == [
        "The model's nodes differ between train and eval mode. To ask for a node that one mode alone has, pass "
        "train_return_nodes= and eval_return_nodes= instead of return_nodes=."
    ]


def test_the_warning_can_be_suppressed():
    with warns() as caught:
        fxfeat.get_graph_node_names(nn.Sequential(TrainOnly()), suppress_diff_warning=True, example_inputs=X)
    assert caught == []


class TrainOnly(nn.Module):
    def forward(self, x):
        return x + 1 if self.training else x


def warns():
    import warnings

    return _Warnings(warnings.catch_warnings(record=True))


class _Warnings:
    def __init__(self, context):
        self.context = context

    def __enter__(self):
        import warnings

        caught = self.context.__enter__()
        warnings.simplefilter("always")
        return caught

    def __exit__(self, *error):
        self.context.__exit__(*error)
