"""Whether tokens are still in the order of the grid that they come from."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from fxfeat.ir.node_meta import meta_of
from fxfeat.vision.layout import Layout
from fxfeat.vision.operations import TURNS, VIEWS, function_of
from fxfeat.vision.replay import run_call
from fxfeat.vision.shapes import Shape, shape_of
from fxfeat.vision.token_layout import lay_out, nearest_layouts


def is_shuffled(node: fx.Node, layout: Layout, layouts: Mapping[fx.Node, Layout]) -> bool:
    """Say whether a value's places are in another order than the image's rows.

    A model may sort its tokens by window, and keep them so. The steps that only reshape a map are replayed on the
    places' numbers.

    Args:
        node: the value.
        layout: its own, read from its shape.
        layouts: those of the values before it.
    """
    steps: list[fx.Node] = []
    source = node
    while source not in layouts and _reshapes(source):
        steps.append(source)
        source = source.all_input_nodes[0]
    if source not in layouts:
        return any(nearest.shuffled for nearest in itertools.islice(nearest_layouts(node, layouts), 1))
    before = layouts[source]
    if before.shuffled or before.prefix or before.grid != layout.grid:
        return before.shuffled
    try:
        numbers = _replay(steps[::-1], _number(before, shape_of(source)), source)
    except (RuntimeError, TypeError, AttributeError):
        return False
    return not torch.equal(numbers, _number(layout, shape_of(node)))


def _reshapes(node: fx.Node) -> bool:
    return function_of(node) in VIEWS | TURNS and bool(node.all_input_nodes)


def _number(layout: Layout, shape: Shape) -> torch.Tensor:
    """Write the number of each place at all that the place holds."""
    return lay_out(torch.arange(layout.places), layout, shape)


def _replay(steps: list[fx.Node], numbers: torch.Tensor, source: fx.Node) -> torch.Tensor:
    """Run some steps, each of which reads the one before, on other values."""
    values = {source: numbers}

    def value_of(node: fx.Node) -> Any:
        return values[node] if node in values else meta_of(node).value

    for step in steps:
        values[step] = run_call(step, value_of)
    return values[steps[-1]] if steps else numbers
