"""What opened code went by in the modules around it: looked at once a call, outside the code.

What stays whole is the model's own, and follows what is set on it. What is written out stands as it was recorded, so a
flag, a number, a mode or a hook that opened code went by must still be what it was.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fxfeat.codegen.containers import Opened, find_part, spell_module
from fxfeat.codegen.own_modes_followed import OwnModes
from fxfeat.codegen.watched_globals import WatchedGlobal, check_globals
from fxfeat.errors import GuardError
from fxfeat.ir.emission import Emission
from fxfeat.ir.guard import IN_PLACE, PRE_HOOKS, Reading
from fxfeat.isolation.own_modes import Setting
from fxfeat.runtime.global_hooks import list_global_hooks
from fxfeat.runtime.library_hooks import may_write, only_look
from fxfeat.runtime.snapshot import NOTHING, is_portable, is_still, read, take

_MODE = "training"
_AFTER = "_forward_hooks"
_HOOKS = ("_forward_pre_hooks", _AFTER, "_backward_pre_hooks", "_backward_hooks")
_AGAIN = "Create the extractor again, or set it back"
Form = Mapping[Reading, Any]


@dataclass(frozen=True)
class Watched:
    """One module, and what it must have by some names.

    ``plain`` is told by identity at a glance, ``empty`` are the names of containers that held nothing. ``whole`` says
    that it runs whole, and is given a feature that it must not write to.
    """

    module: weakref.ref[nn.Module]
    path: str
    plain: tuple[tuple[str, Any], ...]
    empty: tuple[str, ...]
    others: tuple[tuple[Reading, Any], ...]
    whole: bool = False


@dataclass
class Mode:
    """A module of the model that is written out, and its mode when that of the extractor was last set."""

    module: weakref.ref[nn.Module]
    path: str
    expected: bool
    before: bool


@dataclass
class OpenedState:
    """What the code of each form went by, and the modules to look at; a copy has none of the original model's.

    ``hooks_everywhere`` is what was taken of the hooks on all modules, None where that says nothing here, and
    ``outside`` what the code went by outside of its modules.
    """

    forms: dict[str, Form]
    hooks_everywhere: Any = None
    watched: dict[str, tuple[Watched, ...]] = field(default_factory=dict)
    modes: dict[str, tuple[Mode, ...]] = field(default_factory=dict)
    outside: dict[str, tuple[WatchedGlobal, ...]] = field(default_factory=dict)

    def __reduce__(self) -> tuple[Any, ...]:
        forms = {
            name: {key: value for key, value in form.items() if is_portable(value)} for name, form in self.forms.items()
        }
        return OpenedState, (forms, self.hooks_everywhere if is_portable(self.hooks_everywhere) else None)

    def check(self, extractor: nn.Module, form: str) -> None:
        """Raise where what the code of a form went by is no longer what it was.

        Raises:
            GuardError: naming the module and what was set.
        """
        if self.forms.get(form) and self.hooks_everywhere is not None:
            _check_everywhere(self.hooks_everywhere)
        if form not in self.watched:
            self.watch(extractor, None, form)
        for watched in self.watched[form]:
            module = watched.module()
            if module is not None:
                _check(module, watched)
        check_globals(self.outside.get(form, ()))
        for mode in self.modes[form]:
            module = mode.module()
            if module is not None and module.training not in (mode.expected, mode.before):
                raise GuardError(_spell_mode(mode.path, module, mode.expected))

    def watch(self, extractor: nn.Module, model: nn.Module | None, form: str) -> None:
        """Find the modules to look at: those that the extractor holds whole, and the originals of the others."""
        paths: dict[str, dict[Reading, Any]] = {}
        for reading, value in self.forms.get(form, {}).items():
            paths.setdefault(reading.path, {})[reading] = value
        watched, modes = [], []
        for path, values in paths.items():
            mine, original = find_part(extractor, path), find_part(model, path)
            stands_in = mine is extractor or isinstance(mine, Opened)
            expected = {reading: value for reading, value in values.items() if reading.name == _MODE}
            if mine is not None and expected:
                watched.append(_watch(mine, path, expected))
            if original is not None and original is not mine:
                modes += [
                    Mode(weakref.ref(original), path, bool(value), original.training) for value in expected.values()
                ]
            target = original if mine is None or stands_in else mine
            if target is not None:
                rest = {key: values[key] for key in values if key not in expected}
                is_opened = stands_in or any(reading.name == "forward" for reading in rest)
                watched.append(_watch(target, path, rest, whole=target is mine and not is_opened))
        self.watched[form], self.modes[form] = tuple(watched), tuple(modes)

    def note_modes(self) -> None:
        """Take the modes of the originals as they are: the extractor's own was set."""
        for mode in (mode for modes in self.modes.values() for mode in modes):
            module = mode.module()
            mode.before = module.training if module is not None else mode.before


def take_form(model: nn.Module, emission: Emission, modes: OwnModes, setting: Setting | None) -> Form:
    """Take down what the code of a form goes by, from the model that it was recorded on."""
    form: dict[Reading, Any] = {}
    module_at = functools.cache(model.get_submodule)
    for reading in sorted(emission.readings, key=lambda reading: (reading.path, reading.name)):
        value = read(module_at(reading.path), reading.name)
        if reading.name == _MODE and setting is not None:
            value = modes.is_training(reading.path, setting)
        form[reading] = take(value, reading.words)
    return form


def close_opened(extractor: nn.Module, state: OpenedState, reserved: Collection[str]) -> None:
    """Have what stands for an opened module refuse to be given what its code was written by."""
    names: dict[str, set[str]] = {}
    for reading in (reading for form in state.forms.values() for reading in form):
        if reading.name != _MODE and reading.name not in _HOOKS:
            names.setdefault(reading.path, set()).add(reading.name)
    for path, closed in names.items():
        part = find_part(extractor, path)
        if part is extractor:
            part.__dict__["_written_out"] = frozenset(closed - set(reserved))
        elif isinstance(part, Opened):
            part.__dict__["_written_out"] = frozenset(closed)


def _watch(module: nn.Module, path: str, values: Form, whole: bool = False) -> Watched:
    plain = {key: value for key, value in values.items() if _is_plain(module, key.name, value)}
    empty = tuple(key.name for key in values if key.name in _HOOKS and not module.__dict__[key.name])
    others = tuple((key, value) for key, value in values.items() if key not in plain and key.name not in empty)
    return Watched(
        weakref.ref(module), path, tuple((key.name, value) for key, value in plain.items()), empty, others, whole
    )


def _is_plain(module: nn.Module, name: str, value: Any) -> bool:
    return name in module.__dict__ and module.__dict__[name] is value


def _check(module: nn.Module, watched: Watched) -> None:
    own = module.__dict__
    if watched.whole:
        _check_writing(module, watched)
    for name, value in watched.plain:
        if own.get(name, NOTHING) is not value and not is_still(value, read(module, name)):
            raise GuardError(_spell(watched.path, module, name, value, take(read(module, name))))
    for name in () if watched.whole else watched.empty:
        if own[name] and not (name == _AFTER and only_look(module, own[name].values())):
            raise GuardError(_spell(watched.path, module, name, None, None))
    for reading, value in watched.others:
        now = read(module, reading.name)
        if not is_still(value, now):
            raise GuardError(_spell(watched.path, module, reading.name, value, take(now, reading.words)))


def _check_writing(module: nn.Module, watched: Watched) -> None:
    """Raise where a module that runs whole was changed so that it may write to a feature."""
    own, what = module.__dict__, ""
    if own.get(IN_PLACE) and any(name == IN_PLACE for name, _ in watched.plain):
        what = f"{IN_PLACE!r} was set on"
    elif own[PRE_HOOKS] and PRE_HOOKS in watched.empty and any(map(may_write, own[PRE_HOOKS].values())):
        what = "A hook that writes to what it is given was put on"
    if what:
        raise GuardError(
            f"{what} {spell_module(watched.path, module)} since the extractor was made: it would write to a value "
            f"that is a feature. {_AGAIN}."
        )


def _check_everywhere(hooks: Any) -> None:
    if not is_still(hooks, list_global_hooks()):
        raise GuardError(
            "A hook was put on all modules, or taken off, since the extractor was made: it would not run for those "
            f"whose code is written out. {_AGAIN}."
        )


def _spell(path: str, module: nn.Module, name: str, before: Any, now: Any) -> str:
    if name == _MODE:
        return _spell_mode(path, module, before)
    where = spell_module(path, module)
    if name in _HOOKS:
        return (
            f"A hook was put on {where}, or taken off, since the extractor was made, whose code is written out: it "
            f"would not run. {_AGAIN}."
        )
    return (
        f"{name!r} of {where} was {before!r} when the extractor was made and is {now!r} now, and its code is written "
        f"out as it was. {_AGAIN}."
    )


def _spell_mode(path: str, module: nn.Module, expected: bool) -> str:
    where = spell_module(path, module)
    now, then = ("train", "eval") if module.training else ("eval", "train")
    return (
        f"{where} is in {now} mode, and the extractor runs what was written out of it in {then} mode. Set the mode of "
        f"the extractor by {now}(), or create it again."
    )
