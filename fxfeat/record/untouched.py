"""Leave a model as it was found, whatever happened to it in between."""

from __future__ import annotations

import collections
import contextlib
import functools
import logging
import operator
import random
import types
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_CONTAINERS = (dict, list, set, collections.deque)
_ATOMS = frozenset({type(None), bool, int, float, str, tuple, torch.Tensor, nn.Parameter})
_BUILTINS = frozenset({dict, list, set, collections.OrderedDict})
_DEEPEST = 4
_BOOKKEEPING = frozenset(nn.Module().__dict__)
_MISSING = object()


@contextmanager
def untouched(model: nn.Module) -> Iterator[Photograph]:
    """Put every attribute, buffer and random state back on the way out, also after an error.

    Yields:
        What was held before, which tells what has changed since.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> with untouched(layer):
        ...     _ = layer.eval()
        >>> layer.training
        True
    """
    held, modules = Photograph(), _paths_of(model)
    held.take_modules(modules)
    values = _scripted_buffers(modules)
    cpu, cuda, python = torch.get_rng_state(), _cuda_states(), random.getstate()
    numpy_state = _numpy_state()
    try:
        yield held
    finally:
        held.restore()
        _restore_values(values)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        random.setstate(python)
        if numpy_state is not None:
            _numpy().set_state(numpy_state)


@contextmanager
def lent_buffers(model: nn.Module, keep: Collection[tuple[str, str]] = ()) -> Iterator[None]:
    """Let a model run, and write, on copies of its buffers and of the tensors that it holds besides.

    Buffers come back even where code put others in their place, save those in ``keep``, by path of the module and
    name. Other attributes are left to ``untouched``.
    """
    lent: list[tuple[dict[str, Any], str, torch.Tensor, bool]] = []
    copies: dict[int, torch.Tensor] = {}
    for module, path in _paths_of(model).items():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        buffers, attributes = module._buffers, module.__dict__
        for name, value in buffers.items() if buffers else ():
            if value is not None:
                lent.append((buffers, name, value, (path, name) not in keep))
        for name, value in attributes.items():
            if value.__class__ not in _BUILTINS and isinstance(value, torch.Tensor):
                lent.append((attributes, name, value, False))
    for held, name, value, _ in lent:
        held[name] = copies.setdefault(id(value), value.detach().clone())
    try:
        yield
    finally:
        for held, name, value, always in lent:
            if always or held.get(name) is copies[id(value)]:
                held[name] = value


def _paths_of(model: nn.Module) -> dict[nn.Module, str]:
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


class Photograph:
    """A shallow copy of every mutable thing that modules and functions hold."""

    def __init__(self) -> None:
        self._values: dict[int, Any] = {}
        self._copies: dict[int, Any] = {}
        self._empty: dict[int, Any] = {}
        self._cells: dict[int, tuple[types.CellType, Any]] = {}
        self._functions: set[int] = set()
        self._globals: dict[tuple[int, str], tuple[dict[str, Any], Any]] = {}

    def take_modules(self, modules: Collection[nn.Module]) -> None:
        """Copy what modules hold, and what the hooks on them hold."""
        for module in modules:
            self._take(module.__dict__, 0)
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                for hook in hooks.values() if hooks else ():
                    self.take_function(hook)
        for kind in {type(module) for module in modules}:
            self.take_function(getattr(kind, "forward", None))

    def take_function(self, function: Any) -> None:
        """Copy what a function can change: its closure, the object it is bound to, the globals it names."""
        if id(function) in self._functions:
            return
        self._functions.add(id(function))
        if isinstance(function, functools.partial):
            self._take([*function.args, function.keywords], 0)
            self.take_function(function.func)
            return
        if not isinstance(function, types.FunctionType):
            owner = getattr(function, "__self__", function)
            self._take(getattr(owner, "__dict__", owner), 0)
            function = getattr(function, "__func__", None) or vars(type(function)).get("__call__")
        if isinstance(function, types.FunctionType):
            self._take_variables(function)

    def _take_variables(self, function: types.FunctionType) -> None:
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # an empty cell
                self._cells[id(cell)] = (cell, cell.cell_contents)
                self._take_named(cell.cell_contents, function)
        for name in function.__code__.co_names:
            if name in function.__globals__:
                self._globals[id(function.__globals__), name] = (function.__globals__, function.__globals__[name])
                self._take_named(function.__globals__[name], function)

    def _take_named(self, value: Any, function: types.FunctionType) -> None:
        if isinstance(value, types.FunctionType) and value.__globals__ is function.__globals__:
            self.take_function(value)
        else:
            self._take(value, 0)

    def _take(self, value: Any, depth: int) -> None:
        if id(value) in self._copies or id(value) in self._empty or depth > _DEEPEST:
            return
        if not isinstance(value, _CONTAINERS):
            attributes = None if _is_atom(value.__class__) else getattr(value, "__dict__", None)
            if isinstance(attributes, dict):
                self._take(attributes, depth + 1)
            return
        if not value:
            self._empty[id(value)] = value
            return
        self._values[id(value)], self._copies[id(value)] = value, value.copy()
        for held in list(value.values() if isinstance(value, dict) else value):
            kind = held.__class__
            # Most of what a module holds is an empty dict: not worth a call.
            if kind in _BUILTINS and not held:
                self._empty[id(held)] = held
            elif kind not in _ATOMS and not _is_atom(kind):
                self._take(held, depth + 1)

    def changes_of(self, model: nn.Module) -> list[tuple[str, str]]:
        """List the attributes and buffers, by path of the module and name, that are not what they were."""
        own = [(path, name) for path, module in model.named_modules() for name in self._changes_in(module)]
        return own + [("", name) for (_, name), (home, held) in self._globals.items() if home.get(name) is not held]

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

    def changed(self) -> bool:
        """Say whether anything is not what it was."""
        moved = any(cell.cell_contents is not value for cell, value in self._cells.values())
        moved = moved or any(self._empty.values())
        moved = moved or any(home.get(name) is not held for (_, name), (home, held) in self._globals.items())
        return moved or not all(map(_same, self._values.values(), self._copies.values()))

    def restore(self) -> None:
        """Put everything back."""
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
    if issubclass(kind, _CONTAINERS):
        return False
    # A logger leads to all the loggers there are.
    known = (nn.Module, torch.Tensor, type, types.ModuleType, logging.Logger)
    # Not callable(kind): every class can be called, most of their objects cannot.
    return issubclass(kind, known) or any("__call__" in vars(held) for held in kind.__mro__)


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


def _scripted_buffers(modules: Iterable[nn.Module]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Copy the buffers of scripted modules, whose code in C++ runs on them and not on stand-ins."""
    scripted = [module for module in modules if isinstance(module, torch.jit.ScriptModule)]
    return [(buffer, buffer.detach().clone()) for module in scripted for buffer in module.buffers(recurse=False)]


def _restore_values(values: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    with torch.no_grad():
        for buffer, value in values:
            if not torch.equal(buffer, value):
                buffer.copy_(value)


def _cuda_states() -> list[torch.Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []


def _numpy() -> Any:
    import numpy.random  # only where NumPy is already in use

    return numpy.random


def _numpy_state() -> Any:
    import sys

    return _numpy().get_state() if "numpy" in sys.modules else None
