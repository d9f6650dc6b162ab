"""What an attribute of a module is, in a form that can be compared later and keeps nothing alive."""

from __future__ import annotations

import collections
import enum
import functools
import reprlib
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_ATOMS = (
    *(type(None), bool, int, float, complex, str, bytes, enum.Enum),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)
_PARTS = (torch.Tensor, nn.Module)
_CONTAINERS = (list, tuple, set, frozenset, dict, collections.deque)
_TABLES = ("_parameters", "_buffers", "_modules")
_MOST, _MOST_BYTES = 64, 4096
_DEEPEST = 3
_SHORT = reprlib.Repr()
_SHORT.maxother = 80


@dataclass(frozen=True, eq=False)
class Thing:
    """An object that is told from others by its identity."""

    identity: int
    reference: weakref.ref[Any] | None

    def __repr__(self) -> str:
        thing = self.reference() if self.reference is not None else None
        return "another object" if thing is None else _SHORT.repr(thing)

    def is_still(self, value: Any) -> bool:
        """Say whether a value is the same object, and not one that came after it."""
        return id(value) == self.identity and (self.reference is None or self.reference() is value)


@dataclass(frozen=True, eq=False)
class Values:
    """What a NumPy array held."""

    array: Any

    def __repr__(self) -> str:
        return _SHORT.repr(self.array)

    def is_still(self, value: Any) -> bool:
        """Say whether a value is an array that holds the same."""
        ours = self.array
        is_alike = type(value) is type(ours) and (value.dtype, value.shape) == (ours.dtype, ours.shape)
        return is_alike and bool(value.tobytes() == ours.tobytes())


@dataclass(frozen=True)
class Contents:
    """What a container held, or what an object had by some ``names``."""

    kind: type
    parts: tuple[Any, ...]
    names: tuple[str, ...] | None

    def __repr__(self) -> str:
        if self.names is not None:
            named = (f"{name}={_SHORT.repr(part)}" for name, part in zip(self.names, self.parts, strict=True))
            return f"{self.kind.__name__}({', '.join(named)})"
        if issubclass(self.kind, dict):
            half = len(self.parts) // 2
            return _SHORT.repr(dict(zip(self.parts[:half], self.parts[half:], strict=True)))
        plain = next((kind for kind in (list, set, frozenset) if issubclass(self.kind, kind)), tuple)
        return _SHORT.repr(plain(self.parts))


class Unset:
    """Stands for an attribute that a module does not have, and for one that is a tensor or a module."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text

    def __reduce__(self) -> str:
        return "NOTHING" if self is NOTHING else "PART"


NOTHING = Unset("not set")
PART = Unset("a tensor or a module")


def read(module: nn.Module, name: str) -> Any:
    """Return what a module has by a name, without running code of its class."""
    own = module.__dict__
    if name in own:
        return own[name]
    value = getattr(type(module), name, NOTHING)
    if value is not NOTHING:
        return value
    return next((own[table][name] for table in _TABLES if name in own.get(table, ())), NOTHING)


def take(value: Any, words: frozenset[str] | None = frozenset(), depth: int = 0) -> Any:
    """Return what a value is compared by: itself, what it holds, or its identity.

    Args:
        value: an attribute of a module.
        words: the names by which code takes something of it, where it is an object; None for all that it has, as where
            a class finds by code of its own what is asked for (``__getattr__``).
        depth: how far inside another value it lies.
    """
    if isinstance(value, (*_ATOMS, Unset)):
        return value
    if isinstance(value, _PARTS):
        # A module's own tensors and children are seen by the code; what stands in a list is not.
        return Thing(id(value), _refer(value)) if depth else PART
    if _is_small_array(value):
        return Values(value.copy())
    words = None if hasattr(type(value), "__getattr__") else words
    names = None if isinstance(value, _CONTAINERS) else _names_taken(value, words)
    if depth >= _DEEPEST or (len(value) > _MOST if names is None else not names):
        return Thing(id(value), _refer(value))
    return Contents(type(value), tuple(take(part, words, depth + 1) for part in _parts_of(value, names)), names)


def _is_small_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray) and value.nbytes <= _MOST_BYTES


def _parts_of(value: Any, names: tuple[str, ...] | None) -> Sequence[Any]:
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if names is not None:
        tables = (vars(value), *map(vars, type(value).__mro__))
        return [next((table[name] for table in tables if name in table), NOTHING) for name in names]
    return [*value, *value.values()] if isinstance(value, dict) else list(value)


def _names_taken(value: Any, words: frozenset[str] | None) -> tuple[str, ...]:
    """Return the attributes of an object that code names, by itself or through a property."""
    if isinstance(value, functools.partial):
        return ("func", "args", "keywords")
    if isinstance(value, type) or callable(value):
        return ()
    if words is None:
        every = tuple(getattr(value, "__dict__", {}))
        return every if len(every) <= _MOST else ()
    properties = (getattr(type(value), word, None) for word in words)
    codes = (getattr(getattr(one, "fget", None), "__code__", None) for one in properties)
    behind = {name for code in codes if code is not None for name in code.co_names}
    own = getattr(value, "__dict__", None)
    if own is None:
        return ()
    of_classes = (name for kind in type(value).__mro__ for name, part in vars(kind).items() if isinstance(part, _ATOMS))
    return tuple(name for name in dict.fromkeys((*own, *of_classes)) if name in words or name in behind)


def _refer(value: Any) -> weakref.ref[Any] | None:
    try:
        return weakref.ref(value)
    except TypeError:
        return None


def is_still(taken: Any, value: Any) -> bool:
    """Say whether a value is what was taken of it: 1 is neither True nor 1.0, and 0.0 is not -0.0.

    Example:
        >>> taken = take([1, 2])
        >>> is_still(taken, [1, 2]), is_still(taken, [1, 3]), is_still(take(1), True)
        (True, False, False)
    """
    if taken is value:
        return True
    if type(taken) is Contents:
        return type(value) is taken.kind and _holds_still(taken, _parts_of(value, taken.names))
    if type(taken) in (Thing, Values):
        return bool(taken.is_still(value))
    if taken is PART:
        return isinstance(value, _PARTS)
    return type(taken) is type(value) and bool(taken == value) and repr(taken) == repr(value)


def _holds_still(taken: Contents, parts: Sequence[Any]) -> bool:
    return len(parts) == len(taken.parts) and all(map(is_still, taken.parts, parts))


def is_portable(taken: Any) -> bool:
    """Say whether a copy of what was taken is like it in a copy of the model."""
    if isinstance(taken, Contents):
        return all(map(is_portable, taken.parts))
    return not isinstance(taken, Thing)
