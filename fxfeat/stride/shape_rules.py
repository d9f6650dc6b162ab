"""Tell from shapes and names where the result of a call lies on the image."""

from __future__ import annotations

import operator

import torch.nn.functional as F
from torch import fx

from fxfeat.ir.node_meta import TensorMeta
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import nodes_in
from fxfeat.stride.grid import Axes, Grid
from fxfeat.stride.read_windows import arguments_of
from fxfeat.vision.operations import kind_of
from fxfeat.vision.shapes import is_tensor, shape_of


def first_tensor(value: object) -> TensorMeta | None:
    """Return what is known of a tensor, or of the first part of one that was split."""
    while isinstance(value, (tuple, list)) and value:
        value = value[0]
    return value if isinstance(value, TensorMeta) else None


def is_image(node: fx.Node, shape: Axes) -> bool:
    """Say whether a value is, or was picked from, an input that has positions."""
    owner = node
    while owner.op == "call_function" and owner.target in (operator.getitem, getattr) and owner.all_input_nodes:
        owner = owner.all_input_nodes[0]
    whole = owner is node or not is_tensor(owner)
    return owner.op == "placeholder" and len(shape) >= 3 and whole and is_tensor(node)


def image(sizes: Axes) -> Grid:
    """Place an input."""
    ones = (1,) * len(sizes)
    return Grid(tuple(sizes), ones, ones)


def padded(grid: Grid, node: fx.Node, shape: Axes) -> Grid:
    """Place a padded map, whose channels may come first or last."""
    start = grid.first_axis(shape_of(node.all_input_nodes[0]))
    return Grid(tuple(shape[start : start + len(grid.sizes)]), grid.density, grid.rate)


def strided(grid: Grid, stride: Axes, kept: Axes, sizes: Axes) -> Grid:
    """Place the result of something with a stride, of which a part is kept."""
    density = tuple(d * k for d, k in zip(grid.density, kept, strict=True))
    rate = tuple(r * s // k for r, s, k in zip(grid.rate, stride, kept, strict=True))
    return Grid(tuple(sizes), density, rate)


def forgets_positions(recording: Recording, node: fx.Node) -> bool:
    """Say whether a node pools to a size that does not depend on its input's."""
    return kind_of(recording, node).startswith("adaptive")


def shrunk_by(grid: Grid, shape: Axes, batch: int) -> Axes | None:
    """Say by which whole factor a value shrank in a way that is no window, such as patch merging."""
    rank = len(grid.sizes)
    if len(shape) != rank + 2 or shape[0] != batch:
        return None
    for start in (2, 1):
        pairs = list(zip(grid.sizes, shape[start : start + rank], strict=True))
        factors = {old // new for old, new in pairs if new > 1 and old % new == 0}
        if len(factors) == 1 and all(new > 1 and old % new == 0 for old, new in pairs):
            return (factors.pop(),) * rank
    return None


_GROWS = ("interpolate", "upsamp", "convtranspose", "pixelshuffle", "maxunpool", "gridsample")


def grown_to(recording: Recording, node: fx.Node, grid: Grid, shape: Axes) -> Axes | None:
    """Return the sizes that an upsampling leads to."""
    rank = len(grid.sizes)
    if not kind_of(recording, node).startswith(_GROWS) or len(shape) != rank + 2:
        return None
    sizes = tuple(shape[-rank:])
    # An interpolation to a smaller map is a downsampling.
    return sizes if max(sizes) > max(grid.sizes) else None


def refined(grid: Grid, sizes: Axes) -> Grid:
    """Place the result of an upsampling."""
    pairs = zip(grid.density, grid.sizes, sizes, strict=True)
    return Grid(tuple(sizes), tuple(max(1, round(d * old / new)) for d, old, new in pairs), grid.rate)


def is_computed_pad(node: object) -> bool:
    """Say whether a node pads by amounts that the model works out from a size, a stride and a dilation."""
    if not isinstance(node, fx.Node) or node.target is not F.pad:
        return False
    return bool(nodes_in(arguments_of(node, "pad")["pad"]))
