"""What Python holds outside of modules, looked at again and again while a model runs.

Code may change it for as long as it calls a module, and put it back: before and after the run it is the same.
"""

from __future__ import annotations

import contextvars
import enum
import types
from collections.abc import Collection, Hashable

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
        >>> changes.now() == {id(SETTINGS)}
        True
    """

    def __init__(self, state: PythonState, modules: Collection[nn.Module]) -> None:
        own = {id(module.__dict__) for module in modules}
        own |= {id(module.__dict__.get(name)) for module in modules for name in _BOOKKEEPING - _HOOKS}
        # That is looked at for each call of a module: what nobody sets meanwhile is left out.
        own |= {id(vars(each)) for module in modules for each in module._parameters.values() if each is not None}
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
        self._containers = [(key, *pair) for key, pair in state.containers().items() if key not in own]
        self._empty = [(key, value) for key, value in state.empty.items() if key not in own]
        self._context = contextvars.copy_context()

    def now(self) -> Places:
        """List what is not as it was."""
        changed: list[Hashable] = [key for key, home, name, value in self._globals if home.get(name) is not value]
        changed += [key for key, kind, name, value in self._classes if vars(kind).get(name, _MISSING) is not value]
        changed += [key for key, cell, value in self._cells if contents_of_cell(cell) is not value]
        changed += [key for key, value, slots in self._slots if not holds_the_same(slots_of(value), slots)]
        changed += [key for key, value, copy in self._containers if not holds_the_same(value, copy)]
        changed += [key for key, value in self._empty if value]
        context = contextvars.copy_context()
        if context != self._context:
            changed += [id(each) for each, value in context.items() if self._context.get(each, _MISSING) is not value]
        return frozenset(changed)


def may_look_at(module: nn.Module, places: Places) -> bool:
    """Say whether the code of a module and of those inside reaches any of some places."""
    state = PythonState()
    state.take_modules(list(module.modules()), lookers=False)
    attributes = ((key, name) for key, (_, before) in state.classes.items() for name in before)
    known: set[Hashable] = {*state.variables, *attributes, *state.context_variables}
    return not known.isdisjoint(places) or state.reaches([key for key in places if isinstance(key, int)])
