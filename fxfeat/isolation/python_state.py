"""A copy of what a model keeps in Python, to tell what has changed and to put it back."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import types
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn

from fxfeat.ir.source_lines import is_library, names_in
from fxfeat.ir.tree import leaves_of, tensors
from fxfeat.isolation.contents import (
    ATOMS,
    BUILTINS,
    CONTAINERS,
    changes_in_class,
    copy_contents,
    holds_the_same,
    is_array,
    is_atom,
    is_other_array,
    put_class,
    refill,
)
from fxfeat.isolation.inner_state import Access, access_to, is_other_state, put_slots, slots_of
from fxfeat.isolation.reached_code import attributes_taken, data_of, homes_of, is_of_library, methods_of
from fxfeat.runtime.library_hooks import only_look

_DEEPEST = 4
_MOST_FILES = 2
_TABLES = ("_modules", "_parameters", "_forward_hooks", "_forward_pre_hooks")
_BOOKKEEPING = frozenset(nn.Module().__dict__) - {*_TABLES}
_MISSING = object()


class PythonState:
    """A shallow copy of every mutable thing that modules and functions hold.

    Things are told by identity, and kept alive with their copies: ``variables`` are globals, by home and name, with
    their values, ``classes`` those whose attributes were copied, ``cells`` those of closures, ``slots`` what objects
    without a dict hold, ``empty`` the containers that held nothing. ``holding`` are the containers that hold tensors.
    ``iterators`` says that there are iterators, whose state nobody can see.
    """

    def __init__(self) -> None:
        self.holding: list[Any] = []
        self.iterators = False
        self.context_variables: set[int] = set()
        self._values: dict[int, Any] = {}
        self._copies: dict[int, Any] = {}
        self.empty: dict[int, Any] = {}
        self._arrays: dict[int, tuple[Any, Any]] = {}
        self._inner: dict[int, tuple[Any, Access, Any]] = {}
        self.slots: dict[int, tuple[Any, dict[str, Any]]] = {}
        self.cells: dict[int, tuple[types.CellType, Any]] = {}
        self._functions: set[int] = set()
        self._modules: set[int] = set()
        self.classes: dict[int, tuple[type, dict[str, Any]]] = {}
        self.variables: dict[tuple[int, str], tuple[dict[str, Any], Any]] = {}

    def take_modules(
        self, modules: Collection[nn.Module], others: Collection[nn.Module] = (), lookers: bool = True
    ) -> None:
        """Copy what modules, their classes and the hooks on them hold, but not what the modules ``others`` hold.

        Hooks by which a library looks at its own modules are left out unless ``lookers`` are asked for.
        """
        self._modules.update(map(id, (*modules, *others)))
        for module in modules:
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                for hook in hooks.values() if hooks else ():
                    self._take_hook(module, hook, lookers)
            self._take(module.__dict__, 0)
            for parameter in module._parameters.values():
                self._take(vars(parameter) if parameter is not None else {}, 0)
        kinds: dict[Any, None] = dict.fromkeys(type(module) for module in modules)
        for kind in kinds:
            for function in methods_of(kind):
                self.take_function(function)
        for home in dict.fromkeys(home for kind in kinds for home in homes_of(kind)):
            self._take_class(home)

    def _take_hook(self, module: nn.Module, hook: Any, lookers: bool) -> None:
        if lookers or not only_look(module, [hook]):
            self.take_function(hook)
        else:
            self._functions.add(id(hook))  # as if it had been taken: the module's own tables lead to it as well

    def take_attributes(self, modules: Collection[nn.Module]) -> None:
        """Copy what modules hold, and no more."""
        self._modules.update(map(id, modules))
        for module in modules:
            self._take(module.__dict__, 0)

    def take_objects(self, value: Any) -> None:
        """Copy what the objects hold that a structure leads to, such as arguments."""
        for part in leaves_of(value):
            if not isinstance(part, (torch.Tensor, nn.Module)):
                self._take_part(part, part.__class__, 0)

    def _take_kind(self, kind: Any) -> None:
        for home in homes_of(kind):
            self._take_class(home)

    def _take_class(self, kind: type) -> None:
        attributes = dict(vars(kind))
        self.classes[id(kind)] = (kind, {name: value for name, value in attributes.items() if name[:2] != "__"})
        for name in data_of(kind):
            if isinstance(attributes.get(name), CONTAINERS):
                self._take(attributes[name], 0)

    def take_function(self, function: Any, files: int = 0) -> None:
        """Copy what a function can change: its closure, the object it is bound to, the globals it names.

        Functions that it names are looked into as well, those of other files over a few ``files``.
        """
        # The hooks of a tapped run are fxfeat's own, and change as it goes on.
        if id(function) in self._functions or str(getattr(function, "__module__", "")).startswith("fxfeat."):
            return
        self._functions.add(id(function))
        if isinstance(function, functools.partial):
            self._take([*function.args, function.keywords], 0)
            self.take_function(function.func, files)
            return
        if not isinstance(function, types.FunctionType):
            owner = getattr(function, "__self__", function)
            if isinstance(owner, type):
                self._take_kind(owner)
            else:
                self._take(getattr(owner, "__dict__", owner), 0)
            function = getattr(function, "__func__", None) or vars(type(function)).get("__call__")
        if isinstance(function, types.FunctionType):
            self._take(function.__dict__, 0)
            self._take_variables(function, files)

    def _take_variables(self, function: types.FunctionType, files: int) -> None:
        self._take([*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()], 0)
        names = names_in(function.__code__)
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # an empty cell
                self.cells[id(cell)] = (cell, cell.cell_contents)
                self._take_all(cell.cell_contents, names, function, files)
        for name in names:
            if name in function.__globals__:
                value = function.__globals__[name]
                self.variables[id(function.__globals__), name] = (function.__globals__, value)
                self._take_all(value, names, function, files)

    def _take_all(self, value: Any, names: tuple[str, ...], function: types.FunctionType, files: int) -> None:
        for named in attributes_taken(value, names) if isinstance(value, types.ModuleType) else (value,):
            self._take_named(named, function, files)

    def _take_named(self, value: Any, function: types.FunctionType, files: int) -> None:
        if isinstance(value, (types.FunctionType, types.MethodType)):
            files += getattr(value, "__globals__", None) is not function.__globals__
            if files <= _MOST_FILES and not is_of_library(value.__module__):
                self.take_function(value, files)
        elif not isinstance(value, type):
            self._take(value, 0)
        elif id(value) not in self.classes and not (issubclass(value, nn.Module) or is_of_library(value.__module__)):
            self._take_kind(value)

    def _take(self, value: Any, depth: int) -> None:
        if id(value) in self._copies or id(value) in self.empty or depth > _DEEPEST:
            return
        if not isinstance(value, CONTAINERS):
            self._take_object(value, depth)
            return
        if not value:
            self.empty[id(value)] = value
            return
        contents: Any = value.copy() if type(value) in BUILTINS else copy_contents(value)
        self._values[id(value)], self._copies[id(value)] = value, contents
        holds_tensors = False
        for part in contents.values() if isinstance(value, dict) else contents:
            kind = part.__class__
            if kind in ATOMS:
                continue
            # Most of what a module holds is an empty dict, or a child that has its turn: not worth a call.
            if kind in BUILTINS and not part:
                self.empty[id(part)] = part
            elif kind is torch.Tensor:
                holds_tensors = True
            elif id(part) not in self._modules:
                holds_tensors = holds_tensors or issubclass(kind, torch.Tensor)
                self._take_part(part, kind, depth + 1)
        if holds_tensors:
            self.holding.append(value)

    def _take_part(self, value: Any, kind: Any, depth: int) -> None:
        if kind is tuple:
            for part in value:
                if part.__class__ not in ATOMS:
                    self._take_part(part, part.__class__, depth)
        elif kind is types.FunctionType or kind is types.MethodType or kind is functools.partial:
            if not is_library(value.func if kind is functools.partial else value):
                self.take_function(value)
        elif not is_atom(kind) or access_to(value) is not None:
            self._take(value, depth)

    def _take_object(self, value: Any, depth: int) -> None:
        if isinstance(value, nn.Module):
            # One that is no child of the model: it stands in a list, say.
            if id(value) not in self._modules:
                self._modules.add(id(value))
                self._take(value.__dict__, 0)
            return
        if isinstance(value, contextvars.ContextVar):
            self.context_variables.add(id(value))
            return
        if is_array(value):
            self._arrays[id(value)] = (value, value.copy())
            return
        if (access := access_to(value)) is not None:
            self._inner[id(value)] = (value, access, access[0]())
            return
        if is_atom(value.__class__):
            return
        self.iterators |= isinstance(value, Iterator)
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict):
            self._take(attributes, depth + 1)
        slots = slots_of(value)
        if slots and id(value) not in self.slots:
            self.slots[id(value)] = (value, slots)
            self._take(slots, depth + 1)

    def changes_of(self, model: nn.Module) -> list[tuple[str, str]]:
        """List the attributes and buffers, by path of the module and name, that are not what they were."""
        own = [(path, name) for path, module in model.named_modules() for name in self._changes_in(module)]
        own += [("", name) for (_, name), (home, value) in self.variables.items() if home.get(name) is not value]
        own += [("", name) for kind, before in self.classes.values() for name in changes_in_class(kind, before)]
        return own

    def _changes_in(self, module: nn.Module) -> list[str]:
        now = {**module.__dict__, **module._buffers}
        before = {**self._before(module.__dict__), **self._before(module._buffers)}
        names = [name for name in {**before, **now} if name not in _BOOKKEEPING]
        return [n for n in names if before.get(n, _MISSING) is not now.get(n, _MISSING) or self._is_mutated(now[n])]

    def _before(self, attributes: dict[str, Any]) -> dict[str, Any]:
        return self._copies.get(id(attributes), {})

    def _is_mutated(self, value: Any) -> bool:
        container = value if isinstance(value, CONTAINERS) else getattr(value, "__dict__", None)
        if id(container) in self.empty:
            return bool(container)
        return id(container) in self._copies and not holds_the_same(container, self._copies[id(container)])

    def mutated(self) -> frozenset[int]:
        """Return the identities of the containers, closures and arrays that do not hold what they held."""
        mutated = {key for key, (cell, value) in self.cells.items() if cell.cell_contents is not value}
        mutated |= {key for key, value in self.empty.items() if value}
        mutated |= {key for key, pair in self._arrays.items() if is_other_array(*pair)}
        mutated |= {key for key, (_, (read, _), state) in self._inner.items() if is_other_state(read(), state)}
        mutated |= {key for key, (value, slots) in self.slots.items() if not holds_the_same(slots_of(value), slots)}
        mutated |= {key for key, value in self._values.items() if not holds_the_same(value, self._copies[key])}
        return frozenset(mutated)

    def reaches(self, mutated: Collection[int]) -> bool:
        """Say whether any of some containers, closures and arrays was copied."""
        copied = (self.cells, self.empty, self._arrays, self._values, self._inner, self.slots)
        return any(key in kind for key in mutated for kind in copied)

    def containers(self) -> dict[int, tuple[Any, Any]]:
        """Return the containers that held something, each with its copy."""
        return {key: (value, self._copies[key]) for key, value in self._values.items()}

    def shows(self, container: Any) -> bool:
        """Say whether a container was copied, and it was not empty."""
        return id(container) in self._values

    def tensors_held(self) -> frozenset[int]:
        """Return the identities of the tensors that were there."""
        homes = [list(self._copies.values()), [value for _, value in self.cells.values()]]
        homes += [[value for _, value in self.variables.values()], [before for _, before in self.classes.values()]]
        return frozenset(id(tensor) for _, tensor in tensors(homes))

    def changed(self) -> bool:
        """Say whether anything is not what it was."""
        rebound = any(home.get(name) is not value for (_, name), (home, value) in self.variables.items())
        rebound = rebound or any(changes_in_class(kind, before) for kind, before in self.classes.values())
        return rebound or bool(self.mutated())

    def restore(self) -> None:
        """Put everything back."""
        for array, values in self._arrays.values():
            if is_other_array(array, values):
                array[...] = values
        for kind, before in self.classes.values():
            put_class(kind, before)
        for cell, contents in self.cells.values():
            cell.cell_contents = contents
        for (_, name), (home, value) in self.variables.items():
            home[name] = value
        for value in self.empty.values():
            if value:
                value.clear()
        for value, copy in zip(self._values.values(), self._copies.values(), strict=True):
            if not holds_the_same(value, copy):
                refill(value, copy)
        for _, (read, write), state in self._inner.values():
            if is_other_state(read(), state):
                write(state)
        for value, slots in self.slots.values():
            put_slots(value, slots)
