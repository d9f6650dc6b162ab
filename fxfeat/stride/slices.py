"""Read slices that take every n-th position, such as ``x[:, :, ::2, ::2]``."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

from torch import fx

from fxfeat.stride.grid import Axes, Grid
from fxfeat.vision.shapes import shape_of


def is_slice(node: fx.Node) -> bool:
    """Say whether a node takes every n-th element along some axis."""
    return node.target is operator.getitem and any(part.step not in (None, 1) for part in _slices_of(node))


def _slices_of(node: fx.Node) -> Iterator[slice]:
    index: Any = node.args[1]
    yield from (part for part in (index if isinstance(index, tuple) else (index,)) if isinstance(part, slice))


def starts_of(node: fx.Node) -> list[int]:
    """List where a stepping slice begins, other than at 0."""
    return [part.start for part in _slices_of(node) if part.step not in (None, 1) and part.start]


def steps_of(node: fx.Node, grid: Grid) -> Axes | None:
    """Read the step along each spatial axis of a slice, None where it picks in another way."""
    shape = shape_of(node.all_input_nodes[0])
    given = node.args[1]
    index: list[Any] = list(given) if isinstance(given, tuple) else [given]
    if Ellipsis in index:
        at = index.index(Ellipsis)
        index[at : at + 1] = [slice(None)] * (len(shape) - len(index) + 1)
    index += [slice(None)] * (len(shape) - len(index))
    if len(index) != len(shape) or not all(isinstance(part, slice) for part in index):
        return None
    start = grid.first_axis(shape)
    if start < 0:
        return None
    steps = tuple(part.step or 1 for part in index)
    inside = steps[start : start + len(grid.sizes)]
    outside = steps[:start] + steps[start + len(grid.sizes) :]
    return inside if all(step == 1 for step in outside) and all(isinstance(step, int) for step in inside) else None


def crops(node: fx.Node) -> bool:
    """Say whether a node cuts off positions by slices with numbers for their ends."""
    return node.target is operator.getitem and any(_slices_of(node))
