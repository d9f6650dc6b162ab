"""A copy of what a model keeps in Python, to tell what has changed and to put it back."""

from __future__ import annotations

import collections
import contextlib
import functools
import inspect
import logging
import operator
import sys
import types
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from fxfeat.ir.source_lines import is_library, names_in
from fxfeat.ir.tree import tensors

BUILTINS = frozenset({dict, list, set, collections.OrderedDict})
_CONTAINERS = (dict, list, set, collections.deque)
ATOMS = frozenset({type(None), bool, int, float, str, nn.Parameter})
_DEEPEST = 4
_MOST_FILES = 2
_LARGEST_ARRAY = 1_000_000
_TABLES = ("_modules", "_parameters", "_forward_hooks", "_forward_pre_hooks")
_BOOKKEEPING = frozenset(nn.Module().__dict__) - {*_TABLES}
_KNOWN = frozenset({"torch", "torchvision", "numpy", "pytest", "_pytest", *sys.stdlib_module_names})
_MISSING = object()


def paths_of(model: nn.Module) -> dict[nn.Module, str]:
    """Map each module to its path; ``named_modules`` takes as long as a small model's whole forward."""
    found: dict[nn.Module, str] = {}
    waiting = [(model, "")]
    while waiting:
        module, path = waiting.pop()
        if module in found:
            continue
        found[module] = path
        children = reversed(module._modules.items()) if module._modules else ()
        waiting += [(child, f"{path}.{name}" if path else name) for name, child in children if child is not None]
    return found


class PythonState:
    """A shallow copy of every mutable thing that modules and functions hold."""

    def __init__(self) -> None:
        self.holding: list[Any] = []
        self._values: dict[int, Any] = {}
        self._copies: dict[int, Any] = {}
        self._empty: dict[int, Any] = {}
        self._arrays: dict[int, tuple[Any, Any]] = {}
        self._cells: dict[int, tuple[types.CellType, Any]] = {}
        self._functions: set[int] = set()
        self._modules: set[int] = set()
        self._classes: dict[int, tuple[type, dict[str, Any]]] = {}
        self._globals: dict[tuple[int, str], tuple[dict[str, Any], Any]] = {}

    def take_modules(self, modules: Collection[nn.Module], known: Collection[nn.Module] = ()) -> None:
        """Copy what modules hold, what their classes hold, and what the hooks on them hold, but no ``known`` module."""
        self._modules.update(map(id, (*modules, *known)))
        for module in modules:
            self._take(module.__dict__, 0)
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                for hook in hooks.values() if hooks else ():
                    self.take_function(hook)
        kinds: set[Any] = {type(module) for module in modules}
        for kind in kinds:
            for function in _methods_of(kind):
                self.take_function(function)
        for home in {home for kind in kinds for home in _homes(kind)}:
            self._take_class(home)

    def take_attributes(self, modules: Collection[nn.Module]) -> None:
        """Copy what modules hold, and no more."""
        self._modules.update(map(id, modules))
        for module in modules:
            self._take(module.__dict__, 0)

    def _take_kind(self, kind: Any) -> None:
        for home in _homes(kind):
            self._take_class(home)

    def _take_class(self, kind: type) -> None:
        held = {name: vars(kind)[name] for name in _data_of(kind) if name in vars(kind)}
        self._classes[id(kind)] = (kind, held)
        for value in held.values():
            if isinstance(value, _CONTAINERS):
                self._take(value, 0)

    def take_function(self, function: Any, files: int = 0) -> None:
        """Copy what a function can change: its closure, the object it is bound to, the globals it names.

        Functions that it names are looked into as well, those of other files over a few ``files``.
        """
        if id(function) in self._functions:
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
            self._take_variables(function, files)

    def _take_variables(self, function: types.FunctionType, files: int) -> None:
        self._take([*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()], 0)
        names = names_in(function.__code__)
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # an empty cell
                self._cells[id(cell)] = (cell, cell.cell_contents)
                self._take_all(cell.cell_contents, names, function, files)
        for name in names:
            if name in function.__globals__:
                value = function.__globals__[name]
                self._globals[id(function.__globals__), name] = (function.__globals__, value)
                self._take_all(value, names, function, files)

    def _take_all(self, value: Any, names: tuple[str, ...], function: types.FunctionType, files: int) -> None:
        for held in _held_by(value, names) if isinstance(value, types.ModuleType) else (value,):
            self._take_named(held, function, files)

    def _take_named(self, value: Any, function: types.FunctionType, files: int) -> None:
        if isinstance(value, (types.FunctionType, types.MethodType)):
            files += getattr(value, "__globals__", None) is not function.__globals__
            if files <= _MOST_FILES and not _is_known(value.__module__):
                self.take_function(value, files)
        elif isinstance(value, type):
            if id(value) not in self._classes and not issubclass(value, nn.Module) and not _is_known(value.__module__):
                self._take_kind(value)
        else:
            self._take(value, 0)

    def _take(self, value: Any, depth: int) -> None:
        if id(value) in self._copies or id(value) in self._empty or depth > _DEEPEST:
            return
        if not isinstance(value, _CONTAINERS):
            self._take_object(value, depth)
            return
        if not value:
            self._empty[id(value)] = value
            return
        self._values[id(value)], self._copies[id(value)] = value, value.copy()
        holds_tensors = False
        for held in list(value.values() if isinstance(value, dict) else value):
            kind = held.__class__
            if kind in ATOMS:
                continue
            # Most of what a module holds is an empty dict, or a child that has its turn: not worth a call.
            if kind in BUILTINS and not held:
                self._empty[id(held)] = held
            elif kind is torch.Tensor:
                holds_tensors = True
            elif id(held) not in self._modules:
                holds_tensors = holds_tensors or issubclass(kind, torch.Tensor)
                self._take_part(held, kind, depth + 1)
        if holds_tensors:
            self.holding.append(value)

    def _take_part(self, value: Any, kind: Any, depth: int) -> None:
        if kind is tuple:
            for held in value:
                if held.__class__ not in ATOMS:
                    self._take_part(held, held.__class__, depth)
        elif kind is types.FunctionType or kind is types.MethodType or kind is functools.partial:
            if not is_library(value.func if kind is functools.partial else value):
                self.take_function(value)
        elif not _is_atom(kind):
            self._take(value, depth)

    def _take_object(self, value: Any, depth: int) -> None:
        if isinstance(value, nn.Module):
            # One that is no child of the model: it stands in a list, say.
            if id(value) not in self._modules:
                self._modules.add(id(value))
                self._take(value.__dict__, 0)
            return
        if _is_array(value):
            self._arrays[id(value)] = (value, value.copy())
            return
        attributes = None if _is_atom(value.__class__) else getattr(value, "__dict__", None)
        if isinstance(attributes, dict):
            self._take(attributes, depth + 1)

    def changes_of(self, model: nn.Module) -> list[tuple[str, str]]:
        """List the attributes and buffers, by path of the module and name, that are not what they were."""
        own = [(path, name) for path, module in model.named_modules() for name in self._changes_in(module)]
        own += [("", name) for (_, name), (home, held) in self._globals.items() if home.get(name) is not held]
        own += [("", name) for kind, held in self._classes.values() for name in _changes_in_class(kind, held)]
        return own

    def _changes_in(self, module: nn.Module) -> list[str]:
        now = {**module.__dict__, **module._buffers}
        before = {**self._before(module.__dict__), **self._before(module._buffers)}
        names = [name for name in {**before, **now} if name not in _BOOKKEEPING]
        return [n for n in names if before.get(n, _MISSING) is not now.get(n, _MISSING) or self._is_altered(now[n])]

    def _before(self, held: dict[str, Any]) -> dict[str, Any]:
        return self._copies.get(id(held), {})

    def _is_altered(self, value: Any) -> bool:
        held = value if isinstance(value, _CONTAINERS) else getattr(value, "__dict__", None)
        if id(held) in self._empty:
            return bool(held)
        return id(held) in self._copies and not _same(held, self._copies[id(held)])

    def mutated(self) -> frozenset[int]:
        """Return the identities of the containers, closures and arrays that do not hold what they held."""
        found = {key for key, (cell, value) in self._cells.items() if cell.cell_contents is not value}
        found |= {key for key, value in self._empty.items() if value}
        found |= {key for key, pair in self._arrays.items() if _differs(*pair)}
        return frozenset(found | {key for key, value in self._values.items() if not _same(value, self._copies[key])})

    def reaches(self, mutated: Collection[int]) -> bool:
        """Say whether any of some containers, closures and arrays was copied."""
        return any(key in held for key in mutated for held in (self._cells, self._empty, self._arrays, self._values))

    def shows(self, container: Any) -> bool:
        """Say whether a container was copied, and it was not empty."""
        return id(container) in self._values

    def tensors_held(self) -> frozenset[int]:
        """Return the identities of the tensors that were there."""
        homes = [list(self._copies.values()), [held for _, held in self._cells.values()]]
        homes += [[held for _, held in self._globals.values()], [held for _, held in self._classes.values()]]
        return frozenset(id(tensor) for _, tensor in tensors(homes))

    def changed(self) -> bool:
        """Say whether anything is not what it was."""
        moved = any(home.get(name) is not held for (_, name), (home, held) in self._globals.items())
        moved = moved or any(_changes_in_class(kind, held) for kind, held in self._classes.values())
        return moved or bool(self.mutated())

    def restore(self) -> None:
        """Put everything back."""
        for array, values in self._arrays.values():
            if _differs(array, values):
                array[...] = values
        for kind, held in self._classes.values():
            for name in _changes_in_class(kind, held):
                setattr(kind, name, held[name])
        for cell, contents in self._cells.values():
            cell.cell_contents = contents
        for (_, name), (home, held) in self._globals.items():
            home[name] = held
        for value in self._empty.values():
            if value:
                value.clear()
        for value, copy in zip(self._values.values(), self._copies.values(), strict=True):
            if not _same(value, copy):
                _refill(value, copy)


@functools.lru_cache(maxsize=4096)
def _is_atom(kind: type[Any]) -> bool:
    """Say whether what the objects of a class hold is looked at elsewhere, or is not the model's."""
    if issubclass(kind, (*_CONTAINERS, nn.Module)):
        return False
    # A logger leads to all the loggers there are.
    known = (torch.Tensor, type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, logging.Logger)
    return issubclass(kind, known) or is_library(kind)


def _is_known(module: str | None) -> bool:
    """Say whether a file is of Python's or torch's own, or of a library that keeps nothing of a model's."""
    return str(module).partition(".")[0] in _KNOWN


def _held_by(module: types.ModuleType, names: tuple[str, ...]) -> list[Any]:
    """List what code takes from another file by that file's name."""
    held = {} if _is_known(module.__name__) else vars(module)
    return [held[name] for name in names if name in held]


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray) and 0 < value.size <= _LARGEST_ARRAY


def _differs(array: Any, copy: Any) -> bool:
    return bool(array.tobytes() != copy.tobytes())


@functools.lru_cache(maxsize=4096)
def _homes(kind: Any) -> tuple[type, ...]:
    """List the classes that a class's attributes may stand in."""
    return tuple(home for home in kind.__mro__ if not is_library(home))


@functools.lru_cache(maxsize=4096)
def _methods_of(kind: Any) -> tuple[Any, ...]:
    """List ``forward`` and the methods of a class that it names, directly or by way of others."""
    found: dict[str, Any] = {}
    waiting = ["forward"]
    while waiting:
        name = waiting.pop()
        held = inspect.getattr_static(kind, name, None)
        held = getattr(held, "__func__", None) or getattr(held, "fget", None) or held
        if name in found or not isinstance(held, types.FunctionType) or is_library(held):
            continue
        found[name] = held
        waiting += names_in(inspect.unwrap(held).__code__)
    return tuple(found.values())


@functools.lru_cache(maxsize=4096)
def _data_of(kind: Any) -> frozenset[str]:
    """List the attributes of a class that are no methods, properties or the like."""
    found = {name for name, value in vars(kind).items() if not callable(value) and not hasattr(type(value), "__get__")}
    return frozenset(name for name in found if not name.startswith("__"))


def _changes_in_class(kind: type, before: dict[str, Any]) -> list[str]:
    now = vars(kind)
    return [name for name, value in before.items() if now.get(name, _MISSING) is not value]


def _same(value: Any, copy: Any) -> bool:
    if len(value) != len(copy):
        return False
    if isinstance(value, dict):
        return all(map(operator.is_, value, copy)) and all(map(operator.is_, value.values(), copy.values()))
    if isinstance(value, (list, collections.deque)):
        return all(map(operator.is_, value, copy))
    return {id(held) for held in value} == {id(held) for held in copy}


def _refill(value: Any, copy: Any) -> None:
    value.clear()
    if isinstance(value, (list, collections.deque)):
        value.extend(copy)
    else:
        value.update(copy)
