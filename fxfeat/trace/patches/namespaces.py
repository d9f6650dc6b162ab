"""Find the files whose code a model may run: those of its classes, and of the functions and classes that they name."""

from __future__ import annotations

import functools
import sys
import types
from typing import Any

from fxfeat.ir.source_lines import names_in

_FUNCTIONS = (types.FunctionType, staticmethod, classmethod, property)
_LIBRARIES = frozenset({"torch", "numpy", "builtins", *sys.stdlib_module_names})


@functools.lru_cache(maxsize=64)
def find_namespaces(kinds: frozenset[type]) -> tuple[dict[str, Any], ...]:
    """List the globals of the code that classes lead to, by whatever name it comes; Python's and torch's own are not.

    Example:
        >>> from torchvision.models import densenet
        >>> [namespace["__name__"] for namespace in find_namespaces(frozenset({densenet._DenseLayer}))]
        ['torchvision.models.densenet']
    """
    namespaces: dict[int, dict[str, Any]] = {}
    seen: set[types.CodeType] = set()
    waiting = [function for kind in kinds for home in kind.__mro__ for function in _functions_of(home)]
    while waiting:
        function = waiting.pop()
        # The methods of an emitted class have globals of their own each.
        if function.__code__ not in seen:
            seen.add(function.__code__)
            namespaces[id(function.__globals__)] = function.__globals__
            waiting += _named_by(function)
    return tuple(namespaces.values())


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
    """List the functions that a function's code names, and those of classes that it names."""
    names, inside = names_in(function.__code__), function.__globals__
    named = [inside[name] for name in names if name in inside]
    named += [
        vars(value)[name]
        for value in named
        if isinstance(value, types.ModuleType) and not _is_library(value.__name__)
        for name in names
        if name in vars(value)
    ]
    return [inner for value in named if isinstance(value, (type, *_FUNCTIONS)) for inner in _functions_of(value)]


def _is_library(module: str | None) -> bool:
    return str(module).partition(".")[0] in _LIBRARIES
