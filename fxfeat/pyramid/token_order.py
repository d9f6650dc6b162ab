"""Whether tokens are still in the order of the grid that they come from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from fxfeat.ir.node_meta import TensorMeta, meta_of
from fxfeat.ir.tree import map_nodes
from fxfeat.pyramid.layout import Layout, Shape

_VIEWS = ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "contiguous", "clone")
_TURNS = ("permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims")
_SHAPE_ONLY = frozenset(_VIEWS + _TURNS)


def is_shuffled(node: fx.Node, found: Layout, layouts: Mapping[fx.Node, Layout]) -> bool:
    """Say whether a value's places are in another order than the image's rows.

    A model may sort its tokens by window, and keep them so. The steps that only reshape a map are replayed on the
    places' numbers.

    Args:
        node: the value.
        found: its layout, read from its shape.
        layouts: those of the values before it.
    """
    steps: list[fx.Node] = []
    source = node
    while source not in layouts and _reshapes(source):
        steps.append(source)
        source = source.all_input_nodes[0]
    if source not in layouts:
        return _inherits(node, layouts)
    before = layouts[source]
    if before.shuffled or before.prefix or before.grid != found.grid:
        return before.shuffled
    try:
        numbers = _replay(steps[::-1], _number(before, _shape(source)), source)
    except (RuntimeError, TypeError, AttributeError):
        return False
    return not torch.equal(numbers, _number(found, _shape(node)))


def _inherits(node: fx.Node, layouts: Mapping[fx.Node, Layout]) -> bool:
    """Say whether the nearest value before a node that is a map is shuffled."""
    seen, waiting = {node}, list(node.all_input_nodes)
    while waiting:
        source = waiting.pop(0)
        if source in layouts:
            return layouts[source].shuffled
        waiting += [held for held in source.all_input_nodes if held not in seen]
        seen.update(source.all_input_nodes)
    return False


def _reshapes(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op != "call_module" and name in _SHAPE_ONLY and bool(node.all_input_nodes)


def _shape(node: fx.Node) -> Shape:
    value = meta_of(node).value
    return value.shape if isinstance(value, TensorMeta) else ()


def _number(layout: Layout, shape: Shape) -> torch.Tensor:
    """Write the number of each place at all that the place holds."""
    places = torch.arange(math.prod(layout.grid))
    if layout.order == "NLC":
        return places[None, :, None].expand(shape)
    if layout.order == "NHWC":
        return places.view(1, *layout.grid, 1).expand(shape)
    return places.view(1, 1, *layout.grid).expand(shape)


def _replay(steps: list[fx.Node], numbers: torch.Tensor, source: fx.Node) -> torch.Tensor:
    """Run some steps, each of which reads the one before, on other values."""
    made = {source: numbers}

    def value_of(node: fx.Node) -> Any:
        return made[node] if node in made else meta_of(node).value

    for step in steps:
        call: Any = getattr(torch.Tensor, step.target) if isinstance(step.target, str) else step.target
        made[step] = call(*map_nodes(step.args, value_of), **map_nodes(dict(step.kwargs), value_of))
    return made[steps[-1]] if steps else numbers
