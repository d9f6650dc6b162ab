"""Globals, closures and attributes of classes that opened code went by: an error names those that were set later."""

from __future__ import annotations

import copy
import pickle
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import same

X = torch.linspace(-1, 1, 8).reshape(2, 4)
SCALE, CALLS = 1.0, 0
SCALES = {"now": 1.0, "seen": 0.0}
OTHER = types.ModuleType("settings_of_a_test")
OTHER.scale = 1.0  # type: ignore[attr-defined]


class Settings:
    scale = 1.0
    unread = 1.0


class Instance:
    def __init__(self) -> None:
        self.scale = 1.0


INSTANCE = Instance()


class WithDefault:
    scale = 1.0


BY_DEFAULT = WithDefault()


def get_settings() -> WithDefault:
    return BY_DEFAULT


def helper(x: torch.Tensor) -> torch.Tensor:
    return x * SCALE


def make_inner() -> tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[float], None]]:
    scale = 1.0

    def inner(x: torch.Tensor) -> torch.Tensor:
        return x * scale

    def change(to: float) -> None:
        nonlocal scale
        scale = to

    return inner, change


INNER, CHANGE = make_inner()
READERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "global": lambda x: x * SCALE,
    "by a helper": lambda x: helper(x),
    "dict": lambda x: x * SCALES["now"],
    "class": lambda x: x * Settings.scale,
    "object": lambda x: x * INSTANCE.scale,
    "object with a default": lambda x: x * BY_DEFAULT.scale,
    "object from a function": lambda x: x * get_settings().scale,
    "file": lambda x: x * OTHER.scale,
    "closure": lambda x: INNER(x),
}
NAMES = {
    "global": f"'SCALE' of {__name__} was 1.0",
    "by a helper": f"'SCALE' of {__name__} was 1.0",
    "dict": f"'SCALES' of {__name__} was {{'now': 1.0, 'seen': 0.0}}",
    "class": "'scale' of Settings was 1.0",
    "object": f"'INSTANCE' of {__name__} was Instance(scale=1.0)",
    "object with a default": f"'BY_DEFAULT' of {__name__} was WithDefault(scale=1.0)",
    "object from a function": f"'BY_DEFAULT' of {__name__} was WithDefault(scale=1.0)",
    "file": "'scale' of settings_of_a_test was 1.0",
    "closure": f"'scale', around make_inner.<locals>.inner of {__name__}, was 1.0",
}


def make(read: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(read(x))

    return Reads().eval()


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def change(name: str) -> None:
        if name in ("global", "by a helper"):
            monkeypatch.setitem(globals(), "SCALE", 2.0)
        elif name == "closure":
            CHANGE(2.0)
        elif name == "dict":
            monkeypatch.setitem(SCALES, "now", 2.0)
        else:
            homes = {"class": Settings, "object": INSTANCE, "file": OTHER}
            monkeypatch.setattr(homes.get(name, BY_DEFAULT), "scale", 2.0)

    yield change  # type: ignore[misc]
    CHANGE(1.0)


@pytest.mark.parametrize("name", READERS)
def test_what_is_set_later_is_named(name: str, setting: Callable[[str], None]) -> None:
    model = make(READERS[name])
    extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=X, engine="code")
    assert same(extractor(X)["head"], model(X))
    setting(name)
    with pytest.raises(fxfeat.GuardError) as error:
        extractor(X)
    assert str(error.value).startswith(f"{NAMES[name]} when the extractor was made and is ")
    assert str(error.value).endswith(
        "now, and the code that reads it is written out as it was. Create the extractor again, or set it back."
    )
    again = fxfeat.create_feature_extractor(model, ["head"], example_inputs=X, engine="code")
    assert same(again(X)["head"], model(X))


@pytest.mark.parametrize("made", [copy.deepcopy, lambda extractor: pickle.loads(pickle.dumps(extractor))])
def test_a_copy_looks_at_none(made: Any, setting: Callable[[str], None]) -> None:
    extractor = fxfeat.create_feature_extractor(make(READERS["global"]), ["head"], example_inputs=X, engine="code")
    copied, expected = made(extractor), extractor(X)["head"]
    setting("global")
    assert same(copied(X)["head"], expected)


def test_what_code_does_not_read_may_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = fxfeat.create_feature_extractor(make(READERS["class"]), ["head"], example_inputs=X)
    expected = extractor(X)["head"]
    monkeypatch.setattr(Settings, "unread", 2.0)
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert same(extractor(X)["head"], expected)


def test_what_a_whole_module_reads_is_followed(setting: Callable[[str], None]) -> None:
    model = nn.Sequential(make(READERS["global"]), nn.Linear(4, 4)).eval()
    extractor = fxfeat.create_feature_extractor(model, ["0", "1"], example_inputs=X, engine="code")
    setting("global")
    assert same(extractor(X)["1"], model(X))


def _counting(x: torch.Tensor) -> torch.Tensor:
    global CALLS
    CALLS += 1
    return x


def test_what_the_code_sets_itself_is_no_setting() -> None:
    model = make(_counting)
    extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=X)
    for _ in range(2):
        assert same(extractor(X)["head"], model(X))


def test_an_attribute_is_no_global_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class HasScale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.SCALE = nn.Linear(4, 4), 3.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x * self.SCALE).mean()

    model = HasScale().eval()
    extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=X, engine="code")
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert same(extractor(X)["head"], model.head(X * 3.0))
