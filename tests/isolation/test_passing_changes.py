"""What Python holds otherwise for as long as a module is called, and no longer."""

from __future__ import annotations

import contextlib
import contextvars
import copy
import types
import warnings

import pytest
import torch
from torch import nn

import fxfeat

X = torch.randn(2, 4)
SETTINGS, TABLE, STACK = types.SimpleNamespace(scale=2.0), {"scale": 2.0}, [2.0]
SCALE = 2.0
GAIN = contextvars.ContextVar("gain", default=2.0)


class Scales(nn.Module):
    scale = 2.0

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x) * SETTINGS.scale * TABLE["scale"] * STACK[-1] * SCALE * GAIN.get() * Scales.scale


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = Scales(), Scales()


class SetsAnAttribute(Two):
    def forward(self, x):
        before = SETTINGS.scale
        SETTINGS.scale = 5.0
        x = self.first(x)
        SETTINGS.scale = before
        return self.second(x)


class SetsAnItem(Two):
    def forward(self, x):
        before = TABLE["scale"]
        TABLE["scale"] = 5.0
        x = self.first(x)
        TABLE["scale"] = before
        return self.second(x)


class Pushes(Two):
    def forward(self, x):
        STACK.append(5.0)
        x = self.first(x)
        STACK.pop()
        return self.second(x)


class SetsAGlobal(Two):
    def forward(self, x):
        global SCALE
        before, SCALE = SCALE, 5.0
        x = self.first(x)
        SCALE = before
        return self.second(x)


class SetsAClass(Two):
    def forward(self, x):
        before = Scales.scale
        Scales.scale = 5.0
        try:
            x = self.first(x)
        finally:
            Scales.scale = before
        return self.second(x)


class SetsAContextVariable(Two):
    def forward(self, x):
        token = GAIN.set(5.0)
        x = self.first(x)
        GAIN.reset(token)
        return self.second(x)


@contextlib.contextmanager
def scaled(by):
    before = SETTINGS.scale
    SETTINGS.scale = by
    try:
        yield
    finally:
        SETTINGS.scale = before


class EntersAContext(Two):
    def forward(self, x):
        with scaled(5.0):
            x = self.first(x)
        return self.second(x)


class PushesDeepInside(Two):
    def __init__(self):
        super().__init__()
        self.inner = SetsAnItem()

    def forward(self, x):
        return self.second(self.inner(self.first(x)))


class HooksForACall(Two):
    def forward(self, x):
        handle = self.first.linear.register_forward_hook(lambda module, args, output: output * 2)
        try:
            x = self.first(x)
        finally:
            handle.remove()
        return self.second(x)


class HooksInFrontOfACall(Two):
    def forward(self, x):
        handle = self.first.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
        x = self.first(x)
        handle.remove()
        return self.second(x)


MODELS = (
    *(HooksForACall, HooksInFrontOfACall),
    *(SetsAnAttribute, SetsAnItem, Pushes, SetsAGlobal, SetsAClass, SetsAContextVariable, EntersAContext),
    PushesDeepInside,
)


def hooked(model, names, x):
    values = {}
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda _, args, out, name=name: values.update({name: out.clone()})
        )
    output = model(x)
    return {**values, "output": output}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", MODELS)
def test_what_is_put_back_behind_the_call(kind, training):
    model = kind().train(training)
    names = ["first", "second"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        extractor = fxfeat.create_feature_extractor(model, [*names, "output"], example_inputs=X)
    expected = hooked(copy.deepcopy(model), names, X)
    assert all(torch.equal(extractor(X)[name], value) for name, value in expected.items())


def test_the_reason():
    with pytest.raises(fxfeat.TraceError) as raised:
        fxfeat.create_feature_extractor(SetsAnItem(), ["first"], example_inputs=X, engine="code")
    line = SetsAnItem.forward.__code__.co_firstlineno + 3
    reason = f"its code changes what Python holds, and then calls a module, at {__file__}:{line}: `x = self.first(x)`"
    assert reason in str(raised.value)


class CountsBetween(Two):
    def forward(self, x):
        STEPS.append(1)
        x = self.second(self.first(x))
        STEPS.pop()
        return x


STEPS = []


def test_what_the_module_does_not_look_at_is_no_reason():
    assert not fxfeat.create_feature_extractor(CountsBetween(), ["first"], example_inputs=X).tapped
