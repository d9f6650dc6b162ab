"""How a module's code comes to run, and what it is called with, beside a plain ``forward`` on a tensor."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections import OrderedDict
from typing import NamedTuple

import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import assert_equals_eager, run, same, tap

X = torch.randn(2, 4)
LONGER = torch.randn(5, 4)
SERIES, OTHER = torch.randn(2, 5, 4), torch.randn(3, 7, 4)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.linear(x))


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x)


class Holds(Base):
    def __init__(self, child):
        super().__init__()
        self.child = child

    def forward(self, x):
        return self.head(self.child(x))


# -- forward and __call__ ----------------------------------------------------------------------------------------------


def tripled(forward):
    @functools.wraps(forward)
    def wrapper(self, *args, **kwargs):
        return forward(self, *args, **kwargs) * 3

    return wrapper


class DecoratedForward(Inner):
    @tripled
    def forward(self, x):
        return self.linear(x)


def with_its_own_forward():
    def forward(self, x):
        return self.linear(x).relu()

    made = Inner()
    made.forward = types.MethodType(forward, made)
    return made


class CallsItsOwnWay(Inner):
    """``__call__`` does more than ``forward``."""

    def __call__(self, x):
        return super().__call__(x) * 2


def test_a_decorated_forward():
    assert_equals_eager(DecoratedForward(), ["linear", "output"], X, LONGER)
    assert_equals_eager(Holds(DecoratedForward()), ["child", "child.linear", "head"], X, LONGER)


def test_a_forward_that_is_an_instance_attribute():
    assert_equals_eager(with_its_own_forward(), ["linear", "output"], X, LONGER)
    assert_equals_eager(Holds(with_its_own_forward()), ["child", "child.linear", "head"], X, LONGER)


@pytest.mark.parametrize("names", [["head"], ["child"], ["child", "head"], ["child.linear", "head"]], ids="+".join)
def test_an_overridden_call_runs_once(names):
    """A hook on the child sees what ``forward`` returned, the head what ``__call__`` did."""
    model = Holds(CallsItsOwnWay()).eval()
    try:
        found = fxfeat.create_feature_extractor(model, names, example_inputs=X)(X)
    except fxfeat.FxfeatError as error:
        assert "CallsItsOwnWay" in str(error) or "'child'" in str(error)
        return
    expected = {"child": model.child.linear(X), "child.linear": model.child.linear(X), "head": model(X)}
    assert all(same(found[name], expected[name]) for name in names)


def test_an_overridden_call_of_the_model_itself():
    model = CallsItsOwnWay().eval()
    try:
        found = fxfeat.create_feature_extractor(model, ["linear", "output"], example_inputs=X)(X)
    except fxfeat.FxfeatError as error:
        assert "CallsItsOwnWay" in str(error)
        return
    assert same(found["linear"], model.linear(X))
    assert same(found["output"], model(X))


# -- classes of torch's own that models derive from --------------------------------------------------------------------


class OwnSequential(nn.Sequential):
    def forward(self, x):
        return super().forward(x) * 2


class OwnList(nn.ModuleList):
    def forward(self, x):
        for module in self:
            x = module(x).relu()
        return x


class OwnEncoder(nn.TransformerEncoder):
    def forward(self, x):
        for layer in self.layers:
            x = layer(x) * 2
        return x


def encoder():
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    return OwnEncoder(layer, 2, enable_nested_tensor=False)


def test_a_sequential_and_a_list_of_ones_own():
    for made in (OwnSequential(nn.Linear(4, 4), nn.Tanh()), OwnList([nn.Linear(4, 4), nn.Linear(4, 4)])):
        assert_equals_eager(made, ["0", "1", "output"], X, LONGER)
        assert_equals_eager(Holds(made), ["child", "child.0", "child.1", "head"], X, LONGER)


def test_an_encoder_of_ones_own():
    assert_equals_eager(encoder(), ["layers.0", "layers.1", "output"], SERIES, OTHER)
    assert_equals_eager(Holds(encoder()), ["child", "child.layers.0", "head"], SERIES, OTHER)


class Slices(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4), nn.ReLU(inplace=True))

    def forward(self, x):
        return self.layers[2:](self.layers[:2](x))


def test_slices_of_a_sequential():
    assert_equals_eager(Slices(), ["layers.0", "layers.1", "layers.2", "output"], X, LONGER)


class HasTraced(Base):
    def __init__(self):
        super().__init__()
        self.traced = torch.jit.trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), X)

    def forward(self, x):
        y = self.traced(self.linear(x))
        tap("traced", y)
        return self.head(y)


def test_a_traced_submodule():
    assert_equals_eager(HasTraced(), ["linear", "traced", "head"], X, LONGER)


# -- results of odd kinds ----------------------------------------------------------------------------------------------


class Yields(Inner):
    def forward(self, x):
        for _ in range(2):
            x = self.linear(x)
            yield x


class SumsYields(Holds):
    def forward(self, x):
        return self.head(sum(self.child(x)))


def test_a_forward_that_yields():
    model = SumsYields(Yields())
    extractor = fxfeat.create_feature_extractor(model, ["child.linear", "head"], example_inputs=X)
    for inputs in (X, LONGER):
        found = extractor(inputs)
        assert same(found["child.linear"], model.child.linear(inputs))
        assert same(found["head"], model(inputs))


def test_what_a_forward_that_yields_returned_is_refused():
    model = SumsYields(Yields()).eval()
    with pytest.raises(fxfeat.FxfeatError) as caught:
        fxfeat.create_feature_extractor(model, ["child"], example_inputs=X)
    assert "'child'" in str(caught.value)


class TakesAModule(Inner):
    def forward(self, x, module):
        return module(self.linear(x))


class PassesAModule(Base):
    def __init__(self):
        super().__init__()
        self.child = TakesAModule()

    def forward(self, x):
        return self.head(self.child(x, self.linear))


def test_a_module_as_an_argument():
    assert_equals_eager(PassesAModule(), ["child", "child.linear", "linear", "head"], X, LONGER)


class ReturnsAModule(Inner):
    def forward(self, x):
        return self.linear(x), self.linear


class CallsWhatItGot(Holds):
    def forward(self, x):
        y, module = self.child(x)
        return self.head(module(y))


@pytest.mark.parametrize("names", [["child[0]"], ["head"], ["child.linear", "head"]], ids="+".join)
def test_a_module_as_a_result(names):
    model = CallsWhatItGot(ReturnsAModule()).eval()
    found = fxfeat.create_feature_extractor(model, names, example_inputs=X)(X)
    y = model.child.linear(X)
    expected = {"child[0]": y, "child.linear": y, "head": model(X)}
    assert all(same(found[name], expected[name]) for name in names)


def test_a_module_as_a_result_opened_is_that_module():
    model = CallsWhatItGot(ReturnsAModule()).eval()
    try:
        found = fxfeat.create_feature_extractor(model, ["child", "child.linear"], example_inputs=X)(X)
    except fxfeat.FxfeatError as error:
        assert "'child'" in str(error)
        return
    assert found["child"][1] is model.child.linear


class Ordered(Base):
    def forward(self, x):
        y = self.linear(x)
        return OrderedDict(out=self.head(y), aux=y)


def test_an_ordered_dict_as_the_models_result():
    """torchvision's segmentation models return one."""
    model = Ordered().eval()
    found = fxfeat.create_feature_extractor(model, ["output", "output['out']"], example_inputs=X)(X)
    assert list(found["output"]) == ["out", "aux"]
    assert same(found["output"]["aux"], model(X)["aux"])
    assert same(found["output['out']"], model(X)["out"])


# -- arguments of odd kinds --------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Batch:
    x: torch.Tensor
    y: torch.Tensor
    scale: float = 2.0


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


class TakesBatch(Base):
    def forward(self, batch):
        z = self.linear(batch.x) + batch.y * getattr(batch, "scale", 1.0)
        return self.head(z)


@pytest.mark.parametrize("kind", [Batch, Pair], ids=lambda kind: kind.__name__)
def test_a_dataclass_and_a_named_tuple_as_an_argument(kind):
    assert_equals_eager(TakesBatch(), ["linear", "head"], (kind(X, X + 1),), (kind(LONGER, LONGER * 2),))


def test_another_number_in_a_dataclass_is_right_or_refused():
    model, other = TakesBatch(), (Batch(X, X + 1, 5.0),)
    extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=(Batch(X, X + 1),))
    try:
        found = run(extractor, other)["head"]
    except fxfeat.GuardError:
        return
    assert same(found, model(*other)), extractor.code


class DefaultTensor(Base):
    def forward(self, x, scale=torch.full((4,), 3.0)):  # noqa: B008
        return self.head(self.linear(x) * scale)


class DefaultFunction(Base):
    def forward(self, x, function=torch.relu):
        return self.head(function(self.linear(x)))


@pytest.mark.parametrize(
    ("kind", "given"), [(DefaultTensor, torch.ones(4)), (DefaultFunction, torch.tanh)], ids=["tensor", "function"]
)
def test_something_else_for_a_default_is_right_or_refused(kind, given):
    model = kind()
    assert_equals_eager(model, ["linear", "head"], X, LONGER)
    extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=X)
    try:
        found = extractor(X, given)["head"]
    except fxfeat.GuardError:
        return
    assert same(found, model(X, given)), extractor.code


class Tagged(torch.Tensor):
    pass


class AsksForTagged(Base):
    def forward(self, x):
        return self.head(self.linear(x).relu() + (1 if isinstance(x, Tagged) else 0))


def test_a_tensor_subclass_as_an_example_is_refused():
    with pytest.raises(fxfeat.TraceError) as caught:
        fxfeat.create_feature_extractor(AsksForTagged().eval(), ["head"], example_inputs=X.as_subclass(Tagged))
    assert str(caught.value) == (
        "An input is a Tagged, and fxfeat records plain tensors. Pass its .as_subclass(torch.Tensor) in "
        "example_inputs=."
    )


class SelfIsAnArgument(Base):
    """The first parameter need not be called ``self``, so another may be."""

    def forward(this, self):
        return this.head(this.linear(self))


def test_an_argument_called_self():
    model = SelfIsAnArgument()
    found = fxfeat.create_feature_extractor(model, ["linear", "self"], example_inputs=X)(X)
    assert same(found["linear"], model.linear(X))
    assert same(found["self"], X)
