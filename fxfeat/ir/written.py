"""Structures of nodes and literals, as arguments and results are written down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import fx

from fxfeat.ir.module_call import Build, ModuleAt, Opaque


def map_nodes(value: Any, change: Callable[[fx.Node], Any]) -> Any:
    """Replace each node that a structure holds.

    >>> map_nodes((1, {"a": None}), lambda node: 0)
    (1, {'a': None})
    """
    if isinstance(value, fx.Node):
        return change(value)
    if isinstance(value, Build):
        return Build(value.factory, tuple((name, map_nodes(held, change)) for name, held in value.fields))
    if isinstance(value, tuple):
        return tuple(map_nodes(held, change) for held in value)
    if isinstance(value, list):
        return [map_nodes(held, change) for held in value]
    if isinstance(value, dict):
        return {key: map_nodes(held, change) for key, held in value.items()}
    if isinstance(value, slice):
        return slice(*(map_nodes(held, change) for held in (value.start, value.stop, value.step)))
    return value


def nodes_in(value: Any) -> list[fx.Node]:
    """List the nodes that a structure holds.

    >>> nodes_in((1, {"a": None}))
    []
    """
    found: list[fx.Node] = []
    map_nodes(value, found.append)
    return found


def opaque_in(value: Any) -> list[Opaque]:
    """List the parts of a structure that cannot be written down.

    >>> opaque_in([Opaque("Cache")])
    [Opaque(type_name='Cache', module_call=None, steps=())]
    """
    if isinstance(value, Opaque):
        return [value]
    if isinstance(value, Build):
        return [found for _, held in value.fields for found in opaque_in(held)]
    if isinstance(value, (tuple, list)):
        return [found for held in value for found in opaque_in(held)]
    if isinstance(value, dict):
        return [found for held in value.values() for found in opaque_in(held)]
    return []


def flat(value: Any) -> Iterator[Any]:
    """Yield what a structure holds, containers left out."""
    if isinstance(value, (tuple, list)):
        for held in value:
            yield from flat(held)
    elif isinstance(value, dict):
        for held in value.values():
            yield from flat(held)
    elif isinstance(value, Build):
        for _, held in value.fields:
            yield from flat(held)
    else:
        yield value


def hide_modules(value: Any) -> Any:
    """Put ``Opaque`` where a result holds a module: an extractor has no such module to hand out."""
    if isinstance(value, tuple):
        return tuple(hide_modules(held) for held in value)
    if isinstance(value, list):
        return [hide_modules(held) for held in value]
    if isinstance(value, dict):
        return {key: hide_modules(held) for key, held in value.items()}
    return Opaque("module") if isinstance(value, ModuleAt) else value


def without_opaque(value: Any) -> Any:
    """Put None where something cannot be written down."""
    if isinstance(value, tuple):
        return tuple(without_opaque(held) for held in value)
    if isinstance(value, list):
        return [without_opaque(held) for held in value]
    if isinstance(value, dict):
        return {key: without_opaque(held) for key, held in value.items()}
    return None if isinstance(value, Opaque) else value
