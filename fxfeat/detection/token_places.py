"""Where on the image each token lies, for models that keep their tokens in another order than the image's rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from fxfeat.errors import RequestError
from fxfeat.ir.node_meta import TensorMeta, meta_of
from fxfeat.ir.tree import map_nodes
from fxfeat.pyramid.layout import Layout
from fxfeat.pyramid.levels import Level
from fxfeat.pyramid.search import Found

_RESHAPES = ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "contiguous", "clone")
_TURNS = ("permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims")
_PARTS = ("unbind", "getitem", "__getitem__", "chunk", "split")
_REPLAYED = frozenset(_RESHAPES + _TURNS + _PARTS)
_REDUCTIONS = frozenset(("amax", "amin", "mean", "sum"))

Places = tuple[Any, Any]
"""The row and the column that each number of a value belongs to, in pixels, in the value's own structure."""


def find_order(found: Found, level: Level) -> torch.Tensor:
    """Find the order of a level's tokens that makes them the rows of a map.

    Places are followed through the recording from the last value that holds them in the image's order: steps that
    reshape or select are replayed on them, one that takes the greatest or the mean of some places gives the middle of
    these, and any other step leaves them where they are; attention gives the places of its queries.

    Args:
        found: the levels of a model.
        level: one of them, of tokens.

    Returns:
        The index of the token for each place of the grid, row by row.

    Raises:
        RequestError: where the places cannot be followed.
    """
    if not level.layout.shuffled:
        return torch.arange(math.prod(level.layout.grid))
    places = _follow(found, level.node)
    prefix, grid = level.layout.prefix, level.layout.grid
    if places is not None:
        rows, columns = (held[0, prefix:, 0].double() for held in places)
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


def _follow(found: Found, wanted: fx.Node) -> Places | None:
    known: dict[fx.Node, Places] = {}
    for node in found.recording.nodes:
        layout = found.maps.layouts.get(node)
        value = meta_of(node).value
        if layout is not None and not layout.shuffled and not layout.prefix and isinstance(value, TensorMeta):
            known[node] = _place(layout, value.shape)
        else:
            places = _move(node, known)
            if places is not None:
                known[node] = places
        if node is wanted:
            return known.get(node)
    return None


def _place(layout: Layout, shape: tuple[int, ...]) -> Places:
    """Write its own row and column at each number of a value that holds a map in the image's order."""
    rows, columns = (torch.arange(size) * scale for size, scale in zip(layout.grid, layout.scale, strict=True))
    tall, wide = torch.meshgrid(rows, columns, indexing="ij")
    forms = {"NCHW": (1, 1, *layout.grid), "NHWC": (1, *layout.grid, 1), "NLC": (1, math.prod(layout.grid), 1)}
    form = forms[layout.order]
    return tall.reshape(form).expand(shape), wide.reshape(form).expand(shape)


def _move(node: fx.Node, known: Mapping[fx.Node, Places]) -> Places | None:
    """Say where the numbers of a value lie, from where those it was computed from do."""
    sources = [source for source in node.all_input_nodes if source in known]
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if not sources:
        return None
    if node.op != "call_module" and name in _REPLAYED | _REDUCTIONS:
        try:
            return _replay(node, name, sources[0], known, 0), _replay(node, name, sources[0], known, 1)
        except (RuntimeError, TypeError, AttributeError, IndexError):
            return None
    shape = getattr(meta_of(node).value, "shape", None)
    fitting = [known[s] for s in sources if shape and getattr(known[s][0], "shape", (None,))[:-1] == shape[:-1]]
    if not fitting:
        return None
    rows, columns = fitting[0]
    return rows[..., :1].expand(shape), columns[..., :1].expand(shape)


def _replay(node: fx.Node, name: str, source: fx.Node, known: Mapping[fx.Node, Places], axis: int) -> Any:
    def value_of(held: fx.Node) -> Any:
        return known[held][axis] if held is source else meta_of(held).value

    name = "mean" if name in _REDUCTIONS else name
    own = getattr(torch.Tensor, name, None) if isinstance(node.target, str) or name == "mean" else None
    call: Any = own or node.target
    return call(*map_nodes(node.args, value_of), **map_nodes(dict(node.kwargs), value_of))
