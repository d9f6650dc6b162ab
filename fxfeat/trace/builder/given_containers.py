"""Lists and dicts that code is given, and whether it changes them."""

from __future__ import annotations

from typing import Any

import torch

from fxfeat.ir.tree import Step, children, is_structure, walk

Contents = list[tuple[Any, list[tuple[Step, Any]]]]
"""Lists and dicts, each with what it held."""


def contents_of(given: tuple[Any, ...]) -> Contents:
    """List the lists and dicts among arguments and in them, each with its parts.

    >>> contents_of((torch.zeros(1), [1]))
    [([1], [(('item', 0), 1)])]
    """
    structures = (value for value in given if not isinstance(value, torch.Tensor))
    parts = (part for value in structures for _, part in walk(value, (), is_structure))
    return [(part, list(children(part))) for part in parts if isinstance(part, (list, dict))]


def have_changed(contents: Contents) -> bool:
    """Say whether any of them holds something else by now.

    >>> given: list[int] = []
    >>> contents = contents_of((given,))
    >>> given.append(1)
    >>> have_changed(contents)
    True
    """
    return any(not _is_same(children(container), parts) for container, parts in contents)


def _is_same(now: list[tuple[Step, Any]], before: list[tuple[Step, Any]]) -> bool:
    pairs = zip(now, before, strict=False)
    return len(now) == len(before) and all(a[0] == b[0] and a[1] is b[1] for a, b in pairs)
