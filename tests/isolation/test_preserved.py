"""The model is, after wrapping and after failing to wrap, exactly what it was."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxfeat
from tests.oracle import assert_taps_equal_eager, frozen

X = torch.randn(3, 4)


class Messy(nn.Module):
    """Does to itself all that a forward may do."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.frozen = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))
        self.chance = Chance()
        self.script = torch.jit.script(nn.BatchNorm1d(4))
        self.register_buffer("n", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("none", None)
        self.calls = 0
        self.history: list[int] = []
        self.cache: dict[str, object] = {"first": None}
        self.plain = torch.zeros(4)
        self.last = None
        self.linear.register_forward_hook(self.note)
        self.linear.bias.requires_grad_(False)

    def note(self, module, args, result):
        self.history.append(1)

    def forward(self, x):
        self.calls += 1
        self.n += 1
        self.history.append(self.calls)
        self.cache["shape"] = x.shape
        self.cache["first"] = x
        self.last = x
        self.new = x * 2
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        self.plain.add_(1)
        x = self.script(self.norm(self.linear(x))) + torch.randn(4)
        x = F.dropout(self.frozen(self.drop(x)), 0.1, self.training)
        return self.chance(x)


class Chance(nn.Module):
    def forward(self, x):
        random.random()
        np.random.rand()
        return x


class Fails(Messy):
    def forward(self, x):
        super().forward(x)
        self.frozen.train()
        raise ValueError("in the middle")


class FailsOnceAFeatureIsAsked(Messy):
    """Can be recorded but not be written down."""

    def forward(self, x):
        x = super().forward(x)
        return self.linear(x * float(x.detach().numpy().mean()))


def build(kind=Messy, training=True):
    model = kind().train(training)
    model.frozen.train(not training)
    model(X) if kind is Messy else None
    if kind is Messy:
        model.frozen(X).sum().backward()
    return model


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("names", [["linear"], ["frozen"], ["output"], ["frozen.0", "script"]], ids="+".join)
def test_after_wrapping(training, names):
    model = build(Messy, training)
    with frozen(model):
        fxfeat.create_feature_extractor(model, names, example_inputs=X)


@pytest.mark.parametrize("training", [True, False])
def test_after_listing(training):
    model = build(Messy, training)
    with frozen(model):
        fxfeat.get_graph_node_names(model, suppress_diff_warning=True, example_inputs=X)


@pytest.mark.parametrize("engine", ["auto", "code"])
@pytest.mark.parametrize("training", [True, False])
def test_after_a_failure_in_the_middle(training, engine):
    model = build(Fails, training)
    with frozen(model), pytest.raises(fxfeat.TraceError) as caught:
        fxfeat.create_feature_extractor(model, ["linear"], example_inputs=X, engine=engine)
    mode = "train" if training else "eval"
    assert str(caught.value) == (
        f"Fails could not be recorded in {mode} mode with inputs ((3, 4) float32): ValueError: in the middle. "
        "If it needs other inputs, pass example_inputs=."
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"return_nodes": ["missing"], "example_inputs": X},
        {"return_nodes": ["linear"], "example_inputs": torch.zeros(3, 5)},
        {"return_nodes": ["linear"], "example_inputs": (X, X)},
        {"return_nodes": {"linear": "a", "norm": "a"}, "example_inputs": X},
        {"return_nodes": ["linear"], "tracer_kwargs": {"unknown": 1}, "example_inputs": X},
    ],
    ids=["missing", "size", "count", "key", "tracer_kwargs"],
)
def test_after_a_refusal(arguments):
    model = build()
    with frozen(model), pytest.raises(fxfeat.FxfeatError):
        fxfeat.create_feature_extractor(model, **arguments)


def test_after_a_value_left_torch():
    model = build(FailsOnceAFeatureIsAsked)
    with frozen(model), pytest.raises(fxfeat.TraceError):
        fxfeat.create_feature_extractor(model, ["output"], example_inputs=X, engine="code")
    assert_taps_equal_eager(model, ["output"], X)


def test_python_and_numpy_draws():
    model = build()
    random.seed(3)
    np.random.seed(3)
    expected = random.random(), np.random.rand()
    random.seed(3)
    np.random.seed(3)
    fxfeat.create_feature_extractor(model, ["output"], example_inputs=X)
    assert (random.random(), np.random.rand()) == expected


def test_torch_itself_is_put_back():
    before = {name: vars(nn.Module)[name] for name in ("__call__", "__getattr__", "__setattr__")}
    apply, enter = torch.autograd.Function.__dict__["apply"], torch.autocast.__enter__
    for kind in (Messy, Fails):
        try:
            fxfeat.create_feature_extractor(build(kind), ["linear"], example_inputs=X)
        except fxfeat.TraceError:
            assert kind is Fails
        assert {name: vars(nn.Module)[name] for name in before} == before
        assert torch.autograd.Function.__dict__["apply"] is apply
        assert torch.autocast.__enter__ is enter
        assert torch.is_grad_enabled()
        assert torch.overrides._get_current_function_mode() is None


def test_the_grad_mode_of_the_caller_is_kept():
    model = build()
    with torch.no_grad():
        fxfeat.create_feature_extractor(model, ["linear"], example_inputs=X)
        assert not torch.is_grad_enabled()


def test_the_model_still_trains():
    model = build()
    fxfeat.create_feature_extractor(model, ["linear"], example_inputs=X)
    model.zero_grad()
    model(X).sum().backward()
    assert model.linear.weight.grad is not None
    assert model.linear.bias.grad is None
    assert model.calls == 2


def test_frozen_notices():
    """The check of this file fails where it should."""
    changes = [
        lambda model: model.n.add_(1),
        lambda model: setattr(model, "calls", 7),
        lambda model: model.history.append(1),
        lambda model: model.frozen[1].train(),
        lambda model: model.linear.register_forward_hook(model.note),
        lambda model: setattr(model, "mean", model.mean.clone()),
        lambda model: model.linear.bias.requires_grad_(True),
        lambda model: torch.randn(1),
    ]
    for change in changes:
        model = build()
        with pytest.raises(AssertionError), frozen(model):
            change(model)


@pytest.mark.parametrize("call", [fxfeat.get_graph_node_names, fxfeat.features_only, fxfeat.Backbone])
def test_working_out_an_input_draws_nothing(call):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    before = torch.get_rng_state()
    call(model)
    assert torch.equal(torch.get_rng_state(), before)
