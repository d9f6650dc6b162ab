"""What opened code went by outside of its modules: globals, closures and attributes of classes, looked at once a call.

They are written out as the numbers and texts that they were. A copy of an extractor, as in another process, looks at
none.
"""

from __future__ import annotations

import dis
import functools
import itertools
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from fxfeat.errors import GuardError
from fxfeat.ir.source_lines import names_in
from fxfeat.ir.writing_code import CHANGING_METHODS, CHANGING_STEPS
from fxfeat.isolation.reached_code import contents_of_cell, data_of, functions_of, homes_of, is_of_library
from fxfeat.runtime.snapshot import NOTHING, Thing, is_still, take

_LOADS = ("LOAD_GLOBAL", "LOAD_DEREF")


@dataclass(frozen=True)
class WatchedGlobal:
    """Something that code went by: the table it stands in by name, what it is compared by, and how it is spelled."""

    table: Any
    name: str
    taken: Any
    spelled: str


def watch_globals(model: nn.Module, opened: Iterable[str]) -> tuple[WatchedGlobal, ...]:
    """List what the code of opened modules goes by outside of them.

    Args:
        model: the model.
        opened: the paths of the modules that are written out.
    """
    kinds = dict.fromkeys(type(model.get_submodule(path)) for path in ("", *opened))
    functions = functions_of(kind for kind in kinds if not is_of_library(kind.__module__))
    stored = {name for function in functions for name in _names_stored(function.__code__)}
    # What one function returns, another reads: `settings().mult`.
    every = frozenset[str]().union(*(names_in(function.__code__) for function in functions))
    watched: dict[tuple[int, str], WatchedGlobal] = {}
    for function in functions:
        for key, one in _watch_function(function, every, stored):
            watched.setdefault(key, one)
    return tuple(watched.values())


def check_globals(watched: Iterable[WatchedGlobal]) -> None:
    """Raise where something is no longer what it was.

    Raises:
        GuardError: naming it.
    """
    for one in watched:
        now = one.table.get(one.name, NOTHING)
        if not is_still(one.taken, now):
            raise GuardError(
                f"{one.spelled} was {one.taken!r} when the extractor was made and is {take(now)!r} now, and the code "
                "that reads it is written out as it was. Create the extractor again, or set it back."
            )


def _watch_function(
    function: types.FunctionType, words: frozenset[str], stored: set[str]
) -> Iterator[tuple[tuple[int, str], WatchedGlobal]]:
    file = function.__module__
    for name in sorted(
        word for word in _globals_in(function.__code__) & function.__globals__.keys() if word[:2] != "__"
    ):
        yield from _watch(function.__globals__, name, words, stored, f"{name!r} of {file}")
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield from _watch(_Cell(cell), name, words, stored, f"{name!r}, around {function.__qualname__} of {file},")


class _Cell:
    """Looks up a variable of an enclosing function as a table does."""

    def __init__(self, cell: types.CellType) -> None:
        self.cell = cell

    def get(self, name: str, default: Any) -> Any:
        return contents_of_cell(self.cell)


def _watch(
    table: Any, name: str, words: frozenset[str], stored: set[str], spelled: str
) -> Iterator[tuple[tuple[int, str], WatchedGlobal]]:
    """Watch a variable, or what code takes of the class or the file that it names."""
    value = table.get(name, NOTHING)
    if isinstance(value, types.ModuleType):
        if not is_of_library(value.__name__):
            inner = (word for word in words & vars(value).keys() if not isinstance(vars(value)[word], types.ModuleType))
            for word in sorted(inner):
                yield from _watch(vars(value), word, words, stored, f"{word!r} of {value.__name__}")
    elif isinstance(value, type):
        yield from _watch_class(value, words, stored)
    elif name not in stored and not callable(value) and value is not NOTHING:
        taken = take(value, words)
        if not isinstance(taken, Thing):
            yield (id(table), name), WatchedGlobal(table, name, taken, spelled)


def _watch_class(kind: Any, words: frozenset[str], stored: set[str]) -> Iterator[tuple[tuple[int, str], WatchedGlobal]]:
    for home in homes_of(kind) if not issubclass(kind, nn.Module) else ():
        owner: Any = home
        for word in sorted((data_of(owner) & words) - stored):
            taken = take(vars(home)[word], words)
            yield (id(home), word), WatchedGlobal(vars(home), word, taken, f"{word!r} of {home.__name__}")


@functools.lru_cache(maxsize=4096)
def _globals_in(code: types.CodeType) -> frozenset[str]:
    """List the names that code looks up outside of it, and not as an attribute of anything."""
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    names = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return frozenset(names).union(*map(_globals_in, inner))


@functools.lru_cache(maxsize=4096)
def _names_stored(code: types.CodeType) -> frozenset[str]:
    """List the names of what code sets or changes itself: that is no setting."""
    steps = list(dis.get_instructions(code))
    names = {step.argval for step in steps if step.opname in ("STORE_GLOBAL", "STORE_DEREF", "STORE_ATTR")}
    names |= {
        before.argval
        for before, step in itertools.pairwise(steps)
        if before.opname in _LOADS and isinstance(step.argval, str) and step.argval in CHANGING_METHODS
    }
    if any(step.opname in CHANGING_STEPS for step in steps):
        names |= {step.argval for step in steps if step.opname in _LOADS}
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return frozenset(names).union(*map(_names_stored, inner))
