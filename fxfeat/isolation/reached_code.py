"""What code a model's classes and functions lead to, and what of it holds something that can change."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Iterable
from typing import Any

from fxfeat.ir.source_lines import is_library, names_in

_LIBRARIES = frozenset({"torch", "torchvision", "numpy", "pytest", "_pytest", *sys.stdlib_module_names})
_MOST_FUNCTIONS = 64


def is_of_library(module: str | None) -> bool:
    """Say whether a file is of Python's or torch's own, or of a library that keeps nothing of a model's."""
    return str(module).partition(".")[0] in _LIBRARIES


def attributes_taken(module: types.ModuleType, names: tuple[str, ...]) -> list[Any]:
    """List what code takes from another file by that file's name."""
    attributes = {} if is_of_library(module.__name__) else vars(module)
    return [attributes[name] for name in names if name in attributes]


@functools.lru_cache(maxsize=4096)
def homes_of(kind: Any) -> tuple[type, ...]:
    """List the classes that a class's attributes may stand in."""
    return tuple(home for home in kind.__mro__ if not is_library(home))


@functools.lru_cache(maxsize=4096)
def methods_of(kind: Any) -> tuple[Any, ...]:
    """List ``forward`` and the methods of a class that it names, directly or by way of others."""
    methods: dict[str, Any] = {}
    waiting = ["forward"]
    while waiting:
        name = waiting.pop()
        method = inspect.getattr_static(kind, name, None)
        method = getattr(method, "__func__", None) or getattr(method, "fget", None) or method
        if name in methods or not isinstance(method, types.FunctionType) or is_library(method):
            continue
        methods[name] = method
        waiting += names_in(inspect.unwrap(method).__code__)
    return tuple(methods.values())


def functions_of(kinds: Iterable[Any]) -> list[types.FunctionType]:
    """List the methods of some classes, and the functions that they call by name, directly or by way of others."""
    functions: dict[types.FunctionType, None] = {}
    waiting = [method for kind in kinds for method in methods_of(kind)]
    while waiting and len(functions) < _MOST_FUNCTIONS:
        function = waiting.pop()
        if function in functions or is_of_library(function.__module__):
            continue
        functions[function] = None
        called = [function.__globals__.get(name) for name in names_in(function.__code__)]
        called += [contents_of_cell(cell) for cell in function.__closure__ or ()]
        waiting += [other for other in called if isinstance(other, types.FunctionType)]
    return list(functions)


def contents_of_cell(cell: types.CellType) -> Any:
    """Return what a variable of an enclosing function is, None where it is not bound."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


@functools.lru_cache(maxsize=4096)
def data_of(kind: Any) -> frozenset[str]:
    """List the attributes of a class that are no methods, properties or the like."""
    data = {name for name, value in vars(kind).items() if not callable(value) and not hasattr(type(value), "__get__")}
    return frozenset(name for name in data if not name.startswith("__"))
