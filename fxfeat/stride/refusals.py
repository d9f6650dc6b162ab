"""What has no dense counterpart: say which node it is, and why."""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Any, NoReturn

from torch import fx

from fxfeat.errors import RequestError
from fxfeat.ir.node_meta import TensorMeta, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.names.table import name_nodes
from fxfeat.stride.grid import Axes, Grid
from fxfeat.stride.windows import Window


def name_of(recording: Recording, node: fx.Node) -> str:
    """Name a node as ``get_graph_node_names`` does."""
    names = {held: name for name, held in name_nodes(recording).nodes.items()}
    return names.get(node, str(node.target))


def refuse(recording: Recording, node: fx.Node, reason: str) -> NoReturn:
    """Raise the error that names a node.

    Raises:
        RequestError: always.
    """
    raise RequestError(
        f"output_stride cannot be limited here: {name_of(recording, node)!r} lies past the limit, and {reason}. "
        "Ask for a larger output_stride, or for none."
    )


def refuse_loss(recording: Recording, node: fx.Node, reason: str) -> NoReturn:
    """Refuse a downsampling that is no window, such as patch merging."""
    refuse(recording, node, f"{reason}; without its stride it has no counterpart with the same weights")


def refuse_growth(recording: Recording, node: fx.Node) -> NoReturn:
    """Refuse upsampling by a fixed factor of what stays dense."""
    refuse(recording, node, "it upsamples by a fixed factor what is no longer downsampled before it")


def refuse_window(recording: Recording, node: fx.Node, window: Window) -> None:
    """Refuse a pool that returns indices: those of a dense map mean other positions."""
    if window.indices:
        refuse(recording, node, "it returns the indices of its maxima, which mean other positions in a dense map")


def refuse_fixed_size(
    recording: Recording, node: fx.Node, grid: Grid, shape: Axes, fixed: Container[fx.Node], batch: int
) -> None:
    """Refuse code that is bound to the number of positions, or that cuts the positions into windows.

    Args:
        recording: where the node is from.
        node: a node behind a removed stride.
        grid: the positions of its input.
        shape: the shape of its result.
        fixed: the nodes that depend on no input.
        batch: how many images the example has.
    """
    if len(grid.sizes) < 2:
        return
    if _meets_constant(node, grid, shape, fixed):
        refuse(recording, node, f"it adds or multiplies values that exist for {_spell(grid.sizes)} positions only")
    if _mixes_positions(recording, node, grid, batch):
        refuse(recording, node, f"it mixes positions with weights for exactly {grid.tokens} of them")
    if _cuts_windows(node, grid, shape, batch):
        refuse(recording, node, "it cuts positions into windows, which would each see less of the image")


def _spell(sizes: Axes) -> str:
    return "x".join(map(str, sizes))


_ELEMENTWISE = {"add", "iadd", "sub", "isub", "mul", "imul", "div", "truediv", "itruediv", "add_", "sub_", "mul_"}


def _meets_constant(node: fx.Node, grid: Grid, shape: Axes, fixed: Container[fx.Node]) -> bool:
    """Say whether a node combines positions one by one with a parameter that has a value for each."""
    name = getattr(node.target, "__name__", str(node.target))
    if name not in _ELEMENTWISE or max(grid.sizes) == 1:
        return False
    values = (meta_of(held).value for held in node.all_input_nodes if held in fixed)
    shapes = [held.shape for held in values if isinstance(held, TensorMeta)]
    axes = grid.axes_in(shape)
    return any(any(_size_along(held, axis, len(shape)) > 1 for axis in axes) for held in shapes)


def _size_along(shape: Axes, axis: int, rank: int) -> int:
    """Return the size that a shape has along an axis of the shape that it is broadcast to."""
    at = axis - rank + len(shape)
    return shape[at] if at >= 0 else 1


def _mixes_positions(recording: Recording, node: fx.Node, grid: Grid, batch: int) -> bool:
    if node.op != "call_module" or not node.all_input_nodes:
        return False
    layer: Any = recording.root.get_submodule(str(node.target))
    value = meta_of(node.all_input_nodes[0]).value
    if not isinstance(value, TensorMeta) or not hasattr(layer, "in_features"):
        return False
    alone = not grid.is_shown_by(value.shape[:-1]) and value.shape[0] == batch
    return bool(alone and value.shape[-1] == grid.tokens == layer.in_features and len(value.shape) > 2)


def _cuts_windows(node: fx.Node, grid: Grid, shape: Axes, batch: int) -> bool:
    """Say whether a reshape splits the spatial axes."""
    if getattr(node.target, "__name__", node.target) not in ("view", "reshape", "unflatten", "unfold"):
        return False
    # As many channels as positions look like tokens on the last axis.
    shown = grid.is_shown_by(shape[:-1]) or grid.has_axes(shape) or (len(shape) <= 3 and grid.has_tokens(shape))
    if shown or max(grid.sizes) == 1 or math.prod(shape) % (grid.tokens * batch):
        return False
    return shape[0] != batch or len(shape) > len(grid.sizes) + 2
