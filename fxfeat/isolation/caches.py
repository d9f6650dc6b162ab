"""Keep what ``functools.lru_cache`` holds for a model's code apart from what a recording computes."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from torch import nn

from fxfeat.ir.source_lines import is_library, names_in

Cache: TypeAlias = "functools._lru_cache_wrapper[Any]"
_DEEPEST = 3


@contextmanager
def fresh_caches(model: nn.Module) -> Iterator[None]:
    """Empty the caches of a model's code before and after a run.

    A cache knows a fake tensor's shape, dtype and device, and takes it for the real thing: what it kept of a recording
    it would hand out to the model itself later.
    """
    caches = find_caches(model)
    for cache in caches:
        cache.cache_clear()
    try:
        yield
    finally:
        for cache in caches:
            cache.cache_clear()


def find_caches(model: nn.Module) -> list[Cache]:
    """List the caches among a model's attributes, the methods of its classes and the functions that these call by name.

    Example:
        >>> class Table(nn.Module):
        ...     @functools.lru_cache(1)
        ...     def rows(self, n): ...
        >>> len(find_caches(Table())), len(find_caches(nn.ReLU()))
        (1, 0)
    """
    kinds = {kind for module in model.modules() for kind in type(module).__mro__ if not is_library(kind)}
    caches: dict[int, Cache] = {}
    seen: set[int] = set()
    for kind in kinds:
        for value in vars(kind).values():
            _search(value, caches, seen, 0)
    for value in (value for module in model.modules() for value in vars(module).values()):
        if isinstance(value, functools._lru_cache_wrapper):
            _search(value, caches, seen, 0)
    return list(caches.values())


def _search(value: Any, caches: dict[int, Cache], seen: set[int], depth: int) -> None:
    if isinstance(value, functools._lru_cache_wrapper):
        caches[id(value)] = value
        value = value.__wrapped__
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    if isinstance(value, property):
        value = value.fget
    # Nothing is asked of other objects: one that stands for a missing package raises whatever is asked.
    if not isinstance(value, types.FunctionType) or id(value) in seen or depth > _DEEPEST or is_library(value):
        return
    seen.add(id(value))
    for named in _named_in(value):
        _search(named, caches, seen, depth + 1)


def _named_in(function: types.FunctionType) -> Iterator[Any]:
    """Yield what a function's code names: globals, and variables of the functions around it."""
    for name in names_in(function.__code__):
        if name in function.__globals__:
            yield function.__globals__[name]
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # an empty cell
            continue
