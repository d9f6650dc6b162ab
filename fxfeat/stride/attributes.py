"""Change what a ``forward`` does through the settings of its module: ``stride``, ``dilation`` and ``padding``."""

from __future__ import annotations

import itertools
from typing import Any

from torch import nn

from fxfeat.stride.module_places import clone_module
from fxfeat.stride.module_runs import Changes
from fxfeat.stride.windows import Window, ends_of, even_pads

_UNKNOWN = object()


def set_attributes(module: nn.Module, changes: Changes) -> nn.Module | None:
    """Copy a module with the settings that its calls of functions should follow.

    Whether they do follow is for the caller to check.

    Returns:
        The copy, or None where the module has no such settings, or would need two values of one.
    """
    if any(change.dropped or change.after.kind == "slice" for change in changes.values()):
        return None
    settings: dict[str, Any] = {}
    wanted = [_settings_of(module, change.before, change.after).items() for change in changes.values()]
    for name, value in itertools.chain.from_iterable(wanted):
        if value is _UNKNOWN or settings.setdefault(name, value) != value:
            return None
    clone = clone_module(module)
    for name, value in settings.items():
        setattr(clone, name, value)
    return clone


def _settings_of(module: nn.Module, before: Window, after: Window) -> dict[str, Any]:
    own = vars(module)
    if before.kind == "pad":
        return {"padding": _like(own.get("padding"), tuple(ends_of(before)), tuple(ends_of(after)))}
    settings: dict[str, Any] = {}
    for name in ("stride", "dilation"):
        if getattr(before, name) != getattr(after, name):
            settings[name] = _like(own.get(name), getattr(before, name), getattr(after, name))
    if before.pads != after.pads:
        old, new = even_pads(before), even_pads(after)
        settings["padding"] = _UNKNOWN if old is None or new is None else _like(own.get("padding"), old, new)
    return settings


def _like(setting: Any, before: tuple[int, ...], after: tuple[int, ...]) -> Any:
    """Write a new setting the way the old one is written."""
    if type(setting) is int and set(before) == {setting} and len(set(after)) == 1:
        return after[0]
    if type(setting) in (tuple, list) and tuple(setting) == before:
        return type(setting)(after)
    return _UNKNOWN
