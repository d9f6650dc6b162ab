"""What containers, arrays and classes hold: whether it is looked at, whether it is the same, how it is put back."""

from __future__ import annotations

import collections
import functools
import logging
import operator
import sys
import types
from typing import Any

import torch
from torch import nn

from fxfeat.ir.source_lines import is_library

BUILTINS = frozenset({dict, list, set, collections.OrderedDict})
CONTAINERS = (dict, list, set, collections.deque)
ATOMS = frozenset({type(None), bool, int, float, str, nn.Parameter})
_LARGEST_ARRAY = 1_000_000
_MISSING = object()


@functools.lru_cache(maxsize=4096)
def is_atom(kind: type[Any]) -> bool:
    """Say whether what the objects of a class hold is looked at elsewhere, or is not the model's."""
    if issubclass(kind, (*CONTAINERS, nn.Module)):
        return False
    # A logger leads to all the loggers there are.
    closed = (torch.Tensor, type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, logging.Logger)
    return issubclass(kind, closed) or is_library(kind)


def is_array(value: Any) -> bool:
    """Say whether a value is an array of NumPy's that is small enough to copy."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray) and 0 < value.size <= _LARGEST_ARRAY


def is_other_array(array: Any, copy: Any) -> bool:
    """Say whether an array has other values than its copy."""
    return bool(array.tobytes() != copy.tobytes())


def changes_in_class(kind: type, before: dict[str, Any]) -> list[str]:
    """List the attributes of a class that are not what they were, and those that it has now."""
    now = vars(kind)
    added = [name for name in now if name not in before and not name.startswith("__")]
    return added + [name for name, value in before.items() if now.get(name, _MISSING) is not value]


def put_class(kind: type, before: dict[str, Any]) -> None:
    """Put back what the attributes of a class were."""
    for name in changes_in_class(kind, before):
        if name in before:
            setattr(kind, name, before[name])
        else:
            delattr(kind, name)


def copy_contents(container: Any) -> Any:
    """Copy what a container holds into one of Python's own: a class derived from it may give out something else.

    >>> class Makes(dict):
    ...     def __getitem__(self, key):
    ...         return super().__getitem__(key)()
    >>> copy_contents(Makes(a=list)) == {"a": list}
    True
    """
    if isinstance(container, dict):
        return {key: dict.__getitem__(container, key) for key in _kind_of(container).__iter__(container)}
    return {*set.__iter__(container)} if isinstance(container, set) else [*_kind_of(container).__iter__(container)]


def _kind_of(container: Any) -> Any:
    """Return the class of Python's own that a container is derived from."""
    kinds = (collections.OrderedDict, dict, list, set, collections.deque)
    return next(kind for kind in kinds if isinstance(container, kind))


def holds_the_same(container: Any, copy: Any) -> bool:
    """Say whether a container holds the very objects that its copy holds.

    >>> holds_the_same([1, None], [1, None]), holds_the_same({"a": 1}, {"b": 1})
    (True, False)
    """
    contents = container if type(container) in BUILTINS else copy_contents(container)
    if len(contents) != len(copy):
        return False
    if isinstance(contents, dict):
        same_keys = all(map(operator.is_, contents, copy))
        return same_keys and all(map(operator.is_, contents.values(), copy.values()))
    if isinstance(contents, list):
        return all(map(operator.is_, contents, copy))
    return {id(element) for element in contents} == {id(element) for element in copy}


def put_item(container: Any, key: Any, value: Any) -> None:
    """Put a value into a container, whatever a class derived from Python's own does with it."""
    _kind_of(container).__setitem__(container, key, value)


def refill(container: Any, copy: Any) -> None:
    """Put back what a container held.

    >>> numbers = [1]
    >>> refill(numbers, [2, 3])
    >>> numbers
    [2, 3]
    """
    kind = _kind_of(container)
    kind.clear(container)
    if isinstance(container, dict):
        for key, value in copy.items():
            kind.__setitem__(container, key, value)
    elif isinstance(container, set):
        set.update(container, copy)
    else:
        kind.extend(container, copy)
