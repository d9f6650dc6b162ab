"""Where on the image each token lies, for models that keep their tokens in another order than the image's rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from fxfeat.errors import RequestError
from fxfeat.ir.node_meta import meta_of
from fxfeat.pyramid.levels import Level
from fxfeat.pyramid.search import LevelSearch
from fxfeat.vision.layout import Layout
from fxfeat.vision.operations import PARTS, TURNS, VIEWS, function_of
from fxfeat.vision.replay import run_call
from fxfeat.vision.shapes import Shape, is_tensor, shape_of
from fxfeat.vision.token_layout import lay_out

_REPLAYED = VIEWS | TURNS | PARTS
_REDUCTIONS = frozenset(("amax", "amin", "mean", "sum"))

Places = tuple[Any, Any]
"""The row and the column that each number of a value belongs to, in pixels, in the value's own structure."""


def find_order(search: LevelSearch, level: Level) -> torch.Tensor:
    """Find the order of a level's tokens that makes them the rows of a map.

    Places are followed through the recording from the last value that holds them in the image's order: steps that
    reshape or select are replayed on them, one that takes the greatest or the mean of some places gives the middle of
    these, and any other step leaves them where they are; attention gives the places of its queries.

    Args:
        search: the levels of a model.
        level: one of them, of tokens.

    Returns:
        The index of the token for each place of the grid, row by row.

    Raises:
        RequestError: where the places cannot be followed.
    """
    if not level.layout.shuffled:
        return torch.arange(level.layout.places)
    places = _follow(search, level.node)
    prefix, grid = level.layout.prefix, level.layout.grid
    if places is not None:
        rows, columns = (axis[0, prefix:, 0].double() for axis in places)
        order = torch.argsort(columns, stable=True)
        order = order[torch.argsort(rows[order], stable=True)]
        if _is_grid(rows[order], columns[order], grid):
            return order
    raise RequestError(
        f"The tokens of {level.module} are in another order than the image's rows, and the steps before it do not tell "
        "in which. Pass a model that gives maps, or leave this level out with out_indices=."
    )


def _is_grid(rows: torch.Tensor, columns: torch.Tensor, grid: tuple[int, ...]) -> bool:
    if rows.numel() != math.prod(grid):
        return False
    tall, wide = rows.view(grid), columns.view(grid)
    same = bool((tall == tall[:, :1]).all()) and bool((wide == wide[:1]).all())
    return same and bool((tall[1:, 0] > tall[:-1, 0]).all()) and bool((wide[0, 1:] > wide[0, :-1]).all())


def _follow(search: LevelSearch, wanted: fx.Node) -> Places | None:
    places: dict[fx.Node, Places] = {}
    for node in search.recording.nodes:
        here = _place(node, search.maps.layouts.get(node), places)
        if here is not None:
            places[node] = here
        if node is wanted:
            break
    return places.get(wanted)


def _place(node: fx.Node, layout: Layout | None, places: Mapping[fx.Node, Places]) -> Places | None:
    """Say where the numbers of a value lie, by its layout or from where those it was computed from do."""
    if layout is None or layout.shuffled or layout.prefix or not is_tensor(node):
        return _move(node, places)
    return _lay_out(layout, shape_of(node))


def _lay_out(layout: Layout, shape: Shape) -> Places:
    """Write its own row and column at each number of a value that holds a map in the image's order."""
    rows, columns = (torch.arange(size) * scale for size, scale in zip(layout.grid, layout.scale, strict=True))
    tall, wide = torch.meshgrid(rows, columns, indexing="ij")
    return lay_out(tall, layout, shape), lay_out(wide, layout, shape)


def _move(node: fx.Node, places: Mapping[fx.Node, Places]) -> Places | None:
    sources = [source for source in node.all_input_nodes if source in places]
    if not sources:
        return None
    if function_of(node) in _REPLAYED | _REDUCTIONS:
        try:
            return _replay(node, sources[0], places, 0), _replay(node, sources[0], places, 1)
        except (RuntimeError, TypeError, AttributeError, IndexError):
            return None
    shape = shape_of(node)
    fitting = [places[s] for s in sources if shape and getattr(places[s][0], "shape", (None,))[:-1] == shape[:-1]]
    if not fitting:
        return None
    rows, columns = fitting[0]
    return rows[..., :1].expand(shape), columns[..., :1].expand(shape)


def _replay(node: fx.Node, moved: fx.Node, places: Mapping[fx.Node, Places], axis: int) -> Any:
    """Run a step on the rows or the columns of one value that it reads."""

    def value_of(source: fx.Node) -> Any:
        return places[source][axis] if source is moved else meta_of(source).value

    return run_call(node, value_of, torch.Tensor.mean if function_of(node) in _REDUCTIONS else None)
