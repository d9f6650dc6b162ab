"""Operators that are given functions: flexible attention, branches on values."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import fxfeat
from tests.oracle import assert_taps_equal_eager

X = torch.randn(2, 3, 8)
LONGER = torch.randn(1, 5, 8)


def near(score, batch, head, query, key):
    return score - 0.1 * (query - key).abs()


def earlier(batch, head, query, key):
    return query >= key


class Flexible(nn.Module):
    def __init__(self):
        super().__init__()
        self.given, self.result = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        heads = self.given(x).view(x.shape[0], 2, -1, 4)
        return self.result(self.attend(heads).flatten(2).view(x.shape[0], -1, 8))

    def attend(self, heads):
        return flex_attention(heads, heads, heads)


class WithScores(Flexible):
    def attend(self, heads):
        return flex_attention(heads, heads, heads, score_mod=near)


class WithMask(Flexible):
    def attend(self, heads):
        mask = create_block_mask(earlier, None, None, heads.shape[2], heads.shape[2], device="cpu")
        return flex_attention(heads, heads, heads, block_mask=mask)


class Stack(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.first, self.second = kind(), kind()

    def forward(self, x):
        return self.second(self.first(x))


class InAnotherFile(Flexible):
    def attend(self, heads):
        return another.attend(heads)


another = types.ModuleType("tests.trace.of_functions_alone")
exec(
    "from torch.nn.attention.flex_attention import flex_attention\n"
    "def attend(heads):\n"
    "    return flex_attention(heads, heads, heads)\n",
    vars(another),
)


@pytest.fixture(autouse=True)
def loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, another.__name__, another)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("kind", [Flexible, WithScores, WithMask, InAnotherFile])
def test_flexible_attention_in_whole_modules(kind, grad):
    model = Stack(kind).eval()
    with torch.set_grad_enabled(grad):
        extractor = fxfeat.create_feature_extractor(model, ["first", "second"], example_inputs=X)
    with torch.no_grad():
        assert fxfeat.verify(model, extractor, X).ok
        assert fxfeat.verify(model, extractor, LONGER).ok


@pytest.mark.parametrize("kind", [Flexible, WithScores, InAnotherFile])
def test_flexible_attention_in_an_opened_module(kind):
    model = Stack(kind).eval()
    names = ["first.given", "first.flex_attention", "second.result"]
    extractor = fxfeat.create_feature_extractor(model, names, example_inputs=X)
    assert "first_flex_attention = flex_attention(" in extractor.code
    with torch.no_grad():
        assert fxfeat.verify(model, extractor, X).ok
        assert fxfeat.verify(model, extractor, LONGER).ok


def test_a_mask_for_flexible_attention_in_an_opened_module_is_refused():
    refusal = (
        r"^In 'first', the code changes the dispatch modes that are on before .*`return flex_attention\(heads, heads,"
    )
    with torch.no_grad(), pytest.raises(fxfeat.TraceError, match=refusal):
        fxfeat.create_feature_extractor(Stack(WithMask).eval(), ["first.result"], example_inputs=X, engine="code")
    with torch.no_grad():
        assert_taps_equal_eager(Stack(WithMask).eval(), ["first.result"], X)


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.given, self.result = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        y = self.given(x)
        return self.result(torch.cond(x.sum() > 0, torch.sin, torch.cos, (y,)))


def test_a_branch_on_a_value_is_right_on_both_sides():
    model = Branches().eval()
    extractor = fxfeat.create_feature_extractor(model, ["given", "cond", "result"], example_inputs=X)
    for inputs in (X.abs(), -X.abs(), LONGER.abs(), -LONGER.abs()):
        assert fxfeat.verify(model, extractor, inputs).ok


class Transforms(nn.Module):
    def __init__(self, transform):
        super().__init__()
        self.inner, self.transform = nn.Linear(4, 4), transform

    def forward(self, x):
        return self.transform(lambda row: self.inner(row).tanh().sum(), x)


TRANSFORMS = [
    lambda function, x: torch.func.vmap(torch.func.grad(function))(x),
    lambda function, x: torch.func.vmap(function)(x),
    lambda function, x: torch.func.grad(function)(x),
    lambda function, x: torch.func.vjp(function, x)[0],
    lambda function, x: torch.func.jacrev(function)(x),
]


@pytest.mark.parametrize("name", ["1.inner", "1.inner@*", "1.inner:in", "1.tanh"])
@pytest.mark.parametrize("engine", ["auto", "tap"])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.filterwarnings("ignore:.*runs whole:UserWarning")
def test_what_a_transform_computes_inside_has_no_value(transform, engine, name):
    model, x = nn.Sequential(nn.Linear(4, 4), Transforms(transform)), torch.rand(2, 4)
    extractor = fxfeat.create_feature_extractor(model, [name], example_inputs=x, engine=engine)
    with pytest.raises(fxfeat.GuardError) as caught:
        extractor(x)
    assert str(caught.value) == (
        f"{name!r} is computed inside a transform of torch.func, such as vmap or grad, and has no value outside of it. "
        "Ask for what the module around the transform returns."
    )
    around = fxfeat.create_feature_extractor(model, ["1"], example_inputs=x, engine=engine)
    assert torch.equal(around(x)["1"], model(x))


class TransformsWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.weights = nn.Linear(4, 4), nn.Parameter(torch.rand(3, 4, 4))

    def forward(self, x):
        x = self.inner(x)
        return torch.func.vmap(lambda weight: x @ weight)(self.weights).mean(0)


@pytest.mark.filterwarnings("ignore:.*runs whole:UserWarning")
def test_what_is_computed_with_parameters_in_a_transform_has_no_value():
    model, x = TransformsWeights(), torch.rand(2, 4)
    extractor = fxfeat.create_feature_extractor(model, ["matmul"], example_inputs=x)
    with pytest.raises(fxfeat.GuardError, match=r"'matmul' is computed inside a transform of torch.func"):
        extractor(x)
    with pytest.raises(
        fxfeat.TraceError, match=r"uses a tensor that a transform of torch.func, such as vmap, hands to"
    ):
        fxfeat.create_feature_extractor(model, ["matmul"], example_inputs=x, engine="code")


class TakesDerivativesForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return torch.func.jvp(self.inner, (x,), (x,))[1]


@pytest.mark.filterwarnings("ignore:.*runs whole")
@pytest.mark.parametrize("engine", ["auto", "tap"])
def test_what_only_has_a_tangent_has_a_value(engine):
    model, x = TakesDerivativesForward().eval(), torch.rand(2, 4)
    extractor = fxfeat.create_feature_extractor(model, ["inner"], example_inputs=torch.rand(2, 4), engine=engine)
    assert torch.equal(extractor(x)["inner"], model.inner(x))
