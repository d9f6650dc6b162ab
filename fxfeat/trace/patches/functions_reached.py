"""Find the functions that a model may run: those of its classes, and those that these name, by whatever name."""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from typing import Any

from fxfeat.ir.source_lines import names_in

_FUNCTIONS = (types.FunctionType, staticmethod, classmethod, property)
_LIBRARIES = frozenset({"torch", "numpy", "builtins", *sys.stdlib_module_names})


@functools.lru_cache(maxsize=64)
def find_functions(kinds: frozenset[type]) -> tuple[types.FunctionType, ...]:
    """List the functions that classes lead to; Python's and torch's own are not.

    Example:
        >>> from torchvision.models import densenet
        >>> {function.__module__ for function in find_functions(frozenset({densenet._DenseLayer}))}
        {'torchvision.models.densenet'}
    """
    functions: list[types.FunctionType] = []
    seen: set[types.CodeType] = set()
    waiting = [function for kind in kinds for home in kind.__mro__ for function in _functions_of(home)]
    while waiting:
        function = waiting.pop()
        # The methods of an emitted class have globals of their own each.
        if function.__code__ not in seen:
            seen.add(function.__code__)
            functions.append(function)
            waiting += _named_by(function)
    return tuple(functions)


def _functions_of(value: Any) -> list[types.FunctionType]:
    """List the functions that a function, a class or what wraps either holds, unless they are a library's."""
    if isinstance(value, type):
        parts = () if _is_library(value.__module__) else vars(value).values()
        return [function for part in parts if isinstance(part, _FUNCTIONS) for function in _functions_of(part)]
    if isinstance(value, property):
        return _functions_of(value.fget)
    value = getattr(value, "__func__", value)
    if not isinstance(value, types.FunctionType):
        return []
    # What a library's decorator made goes by the name of what it was made from. Emitted code has a file of its own.
    file = value.__globals__.get("__name__")
    own = [] if _is_library(file) or str(file).startswith("fxfeat.") else [value]
    return [*own, *_functions_of(getattr(value, "__wrapped__", None))]


def _named_by(function: types.FunctionType) -> list[types.FunctionType]:
    """List the functions that a function's code names or it keeps, and those of such classes."""
    names, inside = names_in(function.__code__), function.__globals__
    named = [inside[name] for name in names if name in inside] + _kept_by(function)
    named += [
        vars(value)[name]
        for value in named
        if isinstance(value, types.ModuleType) and not _is_library(value.__name__)
        for name in names
        if name in vars(value)
    ]
    return [inner for value in named if isinstance(value, (type, *_FUNCTIONS)) for inner in _functions_of(value)]


def _kept_by(function: types.FunctionType) -> list[Any]:
    """List what a function keeps of the one that it was made in."""
    kept = []
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # an empty one
            kept.append(cell.cell_contents)
    return kept


def _is_library(module: str | None) -> bool:
    return str(module).partition(".")[0] in _LIBRARIES
