"""What Python holds outside of modules, looked at again and again while a model runs.

Code may change it for as long as it calls a module, and put it back: before and after the run it is the same.
"""

from __future__ import annotations

import contextvars
import enum
import itertools
import types
from collections.abc import Collection, Hashable
from typing import Any, NamedTuple

from torch import nn

from fxfeat.isolation.contents import holds_the_same
from fxfeat.isolation.inner_state import slots_of
from fxfeat.isolation.python_state import PythonState
from fxfeat.isolation.reached_code import contents_of_cell, data_of

Places = frozenset[Hashable]
"""Globals and class attributes by home and name, other things by identity."""

_NO_DATA = (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type)
_BOOKKEEPING = frozenset(vars(nn.Module()))
_HOOKS = frozenset(("_forward_hooks", "_forward_pre_hooks"))
_MISSING = object()


class PassingChanges:
    """Tells at any time which of the things that a state has copied are not as they were.

    Example:
        >>> SETTINGS = {"scale": 2.0}
        >>> state = PythonState()
        >>> state.take_objects((SETTINGS,))
        >>> state.take_function(eval("lambda: SETTINGS", {"SETTINGS": SETTINGS}))
        >>> changes = PassingChanges(state, ())
        >>> SETTINGS["scale"] = 5.0
        >>> changes.now(nn.ReLU()) == {id(SETTINGS)}
        True
    """

    def __init__(self, state: PythonState, modules: Collection[nn.Module]) -> None:
        self._globals = [
            (key, home, key[1], value)
            for key, (home, value) in state.variables.items()
            if not isinstance(value, _NO_DATA)
        ]
        self._classes = [
            ((key, name), kind, name, before[name])
            for key, (kind, before) in state.classes.items()
            for name in data_of(kind)
            if name in before and not issubclass(kind, enum.Enum)
        ]
        self._cells = [(key, *pair) for key, pair in state.cells.items() if not isinstance(pair[1], _NO_DATA)]
        self._slots = [(key, *pair) for key, pair in state.slots.items()]
        self._context = contextvars.copy_context()
        self._own, others = _part_by_module(state, modules)
        self._inside: dict[int, list[_Container]] = {}
        tables = _tables_of(modules)
        self._containers = [container for container in others if container.key not in tables]

    def now(self, module: nn.Module) -> Places:
        """List what is not as it was, of what a module and those inside hold and of what is held elsewhere."""
        changed: list[Hashable] = [key for key, home, name, value in self._globals if home.get(name) is not value]
        changed += [key for key, kind, name, value in self._classes if vars(kind).get(name, _MISSING) is not value]
        changed += [key for key, cell, value in self._cells if contents_of_cell(cell) is not value]
        changed += [key for key, value, slots in self._slots if not holds_the_same(slots_of(value), slots)]
        changed += [each.key for each in self._containers if each.is_changed()]
        changed += [each.key for each in self._held_inside(module) if each.is_changed()]
        context = contextvars.copy_context()
        if context != self._context:
            changed += [id(each) for each, value in context.items() if self._context.get(each, _MISSING) is not value]
        return frozenset(changed)

    def _held_inside(self, module: nn.Module) -> list[_Container]:
        # What all modules hold, looked at for each call, would take the square of their number.
        if id(module) not in self._inside:
            inner = (self._held_inside(child) for child in module._modules.values() if child is not None)
            self._inside[id(module)] = [*self._own.get(id(module), ()), *itertools.chain(*inner)]
        return self._inside[id(module)]


class _Container(NamedTuple):
    """A list, dict or the like and what it held."""

    key: int
    value: Any
    copy: Any

    def is_changed(self) -> bool:
        if not self.copy:
            return bool(self.value)
        return not holds_the_same(self.value, self.copy)


def _part_by_module(
    state: PythonState, modules: Collection[nn.Module]
) -> tuple[dict[int, list[_Container]], list[_Container]]:
    """Tell the containers that modules hold themselves, by the identity of the module, from all others."""
    every = {key: _Container(key, *pair) for key, pair in state.containers().items()}
    every |= {key: _Container(key, value, None) for key, value in state.empty.items()}
    own: dict[int, list[_Container]] = {}
    for module in modules:
        held = [value for name, value in vars(module).items() if name not in _BOOKKEEPING or name in _HOOKS]
        for value in held:
            keys = (id(value), id(getattr(value, "__dict__", None)))
            own.setdefault(id(module), []).extend(every.pop(key) for key in keys if key in every)
    return own, list(every.values())


def _tables_of(modules: Collection[nn.Module]) -> frozenset[int]:
    """List what is looked at elsewhere, and what nobody sets meanwhile: tables of modules, attributes of parameters."""
    tables = {id(table) for module in modules for table in (module.__dict__, *vars(module).values())}
    parameters = (each for module in modules for each in module._parameters.values() if each is not None)
    return frozenset(tables | {id(vars(each)) for each in parameters})


def may_look_at(module: nn.Module, places: Places) -> bool:
    """Say whether the code of a module and of those inside reaches any of some places."""
    state = PythonState()
    state.take_modules(list(module.modules()), lookers=False)
    attributes = ((key, name) for key, (_, before) in state.classes.items() for name in before)
    known: set[Hashable] = {*state.variables, *attributes, *state.context_variables}
    return not known.isdisjoint(places) or state.reaches([key for key in places if isinstance(key, int)])
