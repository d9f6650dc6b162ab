"""Where modules are patched while a model is recorded: in few classes, and none is left so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fxfeat import create_feature_extractor
from fxfeat.trace.patches import install
from tests.oracle import assert_equals_eager

SLOW = {"__call__", "__getattribute__", "__getattr__", "__setattr__"}
"""To replace one of these, Python goes through all classes that inherit it."""


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(4, 4)
        self.scale = 2.0

    def forward(self, x):
        return self.proj(x) * self.scale


class Wrapper(nn.Module):
    """Has an attribute wherever what it wraps has one."""

    def __init__(self):
        super().__init__()
        self.inner = Block()

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, x):
        return self.proj(x) * self.scale


class Called(Block):
    def __call__(self, x):
        return super().__call__(x + 1) - 1


class CalledOtherwise(Block):
    def _call_impl(self, x):
        return super()._call_impl(x + 1) - 1


@pytest.fixture
def patched(monkeypatch):
    seen, patch = set(), install.patch

    def noting(undo, replacements):
        replacements = list(replacements)
        seen.update((home, name) for home, name, _ in replacements)
        patch(undo, replacements)

    monkeypatch.setattr(install, "patch", noting)
    return seen


def model_with(*layers):
    return nn.Sequential(nn.Linear(4, 4), *layers, nn.ReLU()).eval()


def test_the_class_of_all_modules_is_left_alone(patched):
    create_feature_extractor(model_with(Block()), ["1.mul"], example_inputs=(torch.rand(2, 4),))
    assert (nn.Linear, "__getattr__") in patched
    assert not {name for home, name in patched if home is nn.Module} & SLOW


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Block, ["1", "1.proj", "2"]),
        (Wrapper, ["1", "1.inner.proj", "2"]),
        (Called, ["1", "1.proj", "2"]),
        (CalledOtherwise, ["0", "2"]),
    ],
)
def test_values_are_eager_whatever_a_class_has_of_its_own(kind, names):
    before = {(home, name): vars(home).get(name) for home in (nn.Module, kind, nn.Linear) for name in SLOW}
    assert_equals_eager(model_with(kind()), names, (torch.rand(2, 4),))
    assert before == {(home, name): vars(home).get(name) for home, name in before}


def test_a_compiled_module_runs_whole():
    model = model_with(Block())
    model[1].compile(backend="eager")
    x = torch.rand(2, 4)
    extractor = create_feature_extractor(model, ["1", "2"], example_inputs=(x,))
    assert torch.equal(extractor(x)["2"], model(x))
    assert "getattr(self, '1')(input)" in extractor.code
