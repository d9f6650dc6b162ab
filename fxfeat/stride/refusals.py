"""What has no dense counterpart: say which node it is, and why."""

from __future__ import annotations

import math
from collections.abc import Container
from typing import NoReturn

from torch import fx

from fxfeat.errors import RequestError
from fxfeat.ir.recording import Recording
from fxfeat.stride.grid import Axes, Grid
from fxfeat.stride.windows import Window
from fxfeat.vision.operations import ARITHMETIC, function_of, module_of
from fxfeat.vision.shapes import is_tensor, shape_of
from fxfeat.vision.value_names import name_operation


def refuse(recording: Recording, node: fx.Node, reason: str) -> NoReturn:
    """Raise the error that names a node.

    Raises:
        RequestError: always.
    """
    raise RequestError(
        f"output_stride cannot be limited here: {name_operation(recording, node)!r} lies past the limit, and {reason}. "
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


def _meets_constant(node: fx.Node, grid: Grid, shape: Axes, fixed: Container[fx.Node]) -> bool:
    """Say whether a node combines positions one by one with a parameter that has a value for each."""
    if function_of(node) not in ARITHMETIC or max(grid.sizes) == 1:
        return False
    constants = [shape_of(source) for source in node.all_input_nodes if source in fixed and is_tensor(source)]
    axes = grid.axes_in(shape)
    return any(_size_along(constant, axis, len(shape)) > 1 for constant in constants for axis in axes)


def _size_along(shape: Axes, axis: int, rank: int) -> int:
    """Return the size that a shape has along an axis of the shape that it is broadcast to."""
    at = axis - rank + len(shape)
    return shape[at] if at >= 0 else 1


def _mixes_positions(recording: Recording, node: fx.Node, grid: Grid, batch: int) -> bool:
    width = getattr(module_of(recording, node), "in_features", None)
    shape = shape_of(node.all_input_nodes[0]) if node.all_input_nodes else ()
    if len(shape) < 3 or not shape[-1] == grid.tokens == width:
        return False
    return shape[0] == batch and not grid.is_shown_by(shape[:-1])


def _cuts_windows(node: fx.Node, grid: Grid, shape: Axes, batch: int) -> bool:
    """Say whether a reshape splits the spatial axes."""
    if function_of(node) not in ("view", "reshape", "unflatten", "unfold"):
        return False
    # As many channels as positions look like tokens on the last axis.
    shown = grid.is_shown_by(shape[:-1]) or grid.has_axes(shape) or (len(shape) <= 3 and grid.has_tokens(shape))
    if shown or max(grid.sizes) == 1 or math.prod(shape) % (grid.tokens * batch):
        return False
    return shape[0] != batch or len(shape) > len(grid.sizes) + 2
