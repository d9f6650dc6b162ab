"""Which values of a recording are maps of the image, and in which layout."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import fx

from fxfeat.errors import TraceError
from fxfeat.ir.node_meta import TensorMeta, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.names.table import name_nodes
from fxfeat.pyramid.formats import TOKENS
from fxfeat.pyramid.grid_sizes import follow_windows
from fxfeat.pyramid.places import Places, lay_places, move_places
from fxfeat.pyramid.read_layout import Extent, read_layout
from fxfeat.pyramid.read_tokens import is_in_order, read_tokens
from fxfeat.pyramid.strays import Stray, Strays, inherit_stray, judge_moved, rearranges
from fxfeat.stride.read_windows import read_window
from fxfeat.trace.setup import Setup
from fxfeat.vision.larger_recording import enlarge, find_image_axes, find_length_axes, record_larger
from fxfeat.vision.layout import Layout
from fxfeat.vision.learnt import attends
from fxfeat.vision.operations import slides
from fxfeat.vision.shapes import Shape, shape_of
from fxfeat.vision.token_layout import nearest_layouts

_MOST_NEAR = 6
_GROWTHS = ((3, 2), (2, 2))
"""How much taller and wider to make the image, likeliest to suit a model first: multiples suit windows and patches."""


@dataclass(frozen=True)
class Maps:
    """The maps of one recording.

    Attributes:
        image: the input that holds the image.
        extent: the image's sizes.
        layouts: the layout of each value that holds a map of the image, the image itself included.
        turned: the first value of a map's shape whose numbers do not lie in the image's order, if there is one.
        resized: whether the model brings images of all sizes to one.
    """

    image: fx.Node
    extent: Extent
    layouts: dict[fx.Node, Layout]
    turned: fx.Node | None = None
    resized: bool = False


def find_maps(setup: Setup, recording: Recording) -> Maps:
    """Read the layout of every value from shapes: over two image sizes where the model takes a second one.

    Args:
        setup: the model and its example.
        recording: of the model in eval mode.

    Raises:
        TraceError: where no input is an image, a volume or a signal.
    """
    image = find_image(recording)
    larger = record_larger_image(setup, recording)
    if larger is None:
        return _read_maps(recording, image, None)
    shapes = pair_shapes(recording, larger)
    maps = _read_maps(recording, image, shapes)
    if len(maps.layouts) > 1:
        return maps
    maps = _read_maps(recording, image, None)
    return replace(maps, resized=any(shapes.get(node) == shape_of(node) for node in maps.layouts if node is not image))


def _read_maps(recording: Recording, image: fx.Node, larger: dict[fx.Node, Shape] | None) -> Maps:
    extent = Extent(shape_of(image)[0], shape_of(image)[2:], None if larger is None else larger[image][2:])
    layouts: dict[fx.Node, Layout] = {image: Layout("NCHW", extent.grid, shape_of(image)[1], (1.0,) * len(extent.grid))}
    places: dict[fx.Node, Places] = {image: lay_places(layouts[image], shape_of(image))}
    grids: dict[object, Layout] = {}
    strays: Strays = {}
    last = {source: node for node in recording.nodes for source in node.all_input_nodes}
    for node in recording.nodes:
        if node is image or node.op in ("placeholder", "get_attr"):
            continue
        moved = move_places(recording, node, places)
        layout, stray = _read(recording, node, larger, Seen(extent, layouts, grids, strays, moved))
        if layout is not None:
            layouts[node] = layout
            grids[layout.grid, layout.scale] = layout
        elif stray is not None:
            strays[node] = stray
        if layout is not None and layout.order not in TOKENS:
            moved = lay_places(layout, shape_of(node))
        if moved is not None:
            places[node] = moved
        for source in node.all_input_nodes:
            if last[source] is node:
                places.pop(source, None)
    for node, windows in follow_windows(recording, image, layouts).items():
        layouts[node] = replace(layouts[node], windows=windows)
    rank = len(shape_of(image))
    turned = (node for node, stray in strays.items() if stray is Stray.TURNED and len(shape_of(node)) == rank)
    return Maps(image, extent, layouts, next(turned, None))


@dataclass(frozen=True)
class Seen:
    """What is known when a value is read: the maps before it, and where its own numbers lie."""

    extent: Extent
    layouts: dict[fx.Node, Layout]
    grids: dict[object, Layout]
    strays: Strays
    places: Places | None


def _read(
    recording: Recording, node: fx.Node, larger: dict[fx.Node, Shape] | None, seen: Seen
) -> tuple[Layout | None, Stray | None]:
    """Read a value with axes for its grid from its shape, and tokens from where they lie; or say why it is no map."""
    shape, other = shape_of(node), None if larger is None else larger.get(node)
    stray, moves = inherit_stray(recording, node, seen.layouts, seen.strays), rearranges(recording, node)
    if stray is not None and not moves:
        return None, stray
    if (larger is not None and other is None) or (len(shape) > 3 and attends(node)):
        return None, stray
    near = _near(node, seen.layouts, seen.grids)
    layout = read_layout(shape, other, seen.extent, near, slides(recording, node))
    given = node.all_input_nodes[0] if node.all_input_nodes else None
    if layout is not None and other is None and (given in seen.layouts or given in seen.strays):
        layout = _count_steps(recording, node, layout, near)
    # Three axes fit too much: rows of an image, letters of a text, what many steps have made of one axis.
    if layout is not None and (moves or len(shape) == 3):
        layout = layout if _keeps_order(layout, seen.places) else None
    tokens = _read_tokens(shape, other, seen) if len(shape) == 3 and seen.places is not None else None
    # What has a place for each number along one axis is a map of one axis too.
    is_map = layout is not None and (tokens is None or tokens.grid == layout.grid)
    read = layout if is_map else tokens
    carries = stray is not None or any(source in seen.layouts for source in node.all_input_nodes)
    if read is not None or not moves or not carries:
        return read, None
    return None, judge_moved(recording, node, stray, seen.places is not None)


def _count_steps(recording: Recording, node: fx.Node, layout: Layout, near: Sequence[Layout]) -> Layout:
    """Count the steps of a window, or those of a map of the same grid: without padding a grid shrinks beside them."""
    window, source = read_window(recording, node), next(iter(near), None)
    if source is None:
        return layout
    if window is not None and window.kind != "pad" and (source.order, layout.order) == ("NCHW", "NCHW"):
        return replace(layout, scale=tuple(map(operator.mul, source.scale, window.stride)))
    return replace(layout, scale=source.scale) if source.grid == layout.grid else layout


def _read_tokens(shape: Shape, other: Shape | None, seen: Seen) -> Layout | None:
    assert seen.places is not None
    for order in TOKENS:
        batch = order.index("N")
        grows = other is None or (other[1 - batch] != shape[1 - batch] and other[2] == shape[2])
        if shape[batch] == seen.extent.batch and grows:
            tokens = read_tokens(seen.places, seen.extent.grid, order)
            if tokens is not None:
                return tokens
    return None


def _keeps_order(layout: Layout, places: Places | None) -> bool:
    """Say whether what was arranged anew is a map still: it comes from places of the image, in the image's order."""
    first = 2 if layout.order == "NCHW" else 1
    if places is None or not all(isinstance(axis, torch.Tensor) for axis in places):
        return False
    # A place may hold several, such as the pixels of its patch, and numbers of no place beside them.
    channel = 1 if layout.order == "NCHW" else -1
    # An axis of the image all of which is in the channels was only put aside, for a norm over it.
    if any(size == 1 and _varies(axis, channel) for size, axis in zip(layout.grid, places, strict=True)):
        return False
    middle = tuple(axis.nanmean(channel, keepdim=True) for axis in places)
    return is_in_order(middle, range(first, first + len(layout.grid)))


def _varies(place: torch.Tensor, axis: int) -> bool:
    lines = place.movedim(axis, 0)
    return bool((lines != lines[:1]).logical_and(lines.isfinite()).any())


def find_image(recording: Recording) -> fx.Node:
    """Find the input with the most axes, the largest among them.

    Raises:
        TraceError: where there is none of at least three axes, floating.
    """
    inputs = [node for node in recording.graph.nodes if node.op == "placeholder"]
    inputs += [node for node in recording.graph.nodes if _is_element_of_input(node)]
    images = [node for node in inputs if _may_be_image(node)]
    if not images:
        shown = ", ".join(_describe_input(node) for node in inputs if shape_of(node)) or "no tensor"
        raise TraceError(
            f"A feature pyramid needs an image (N, C, H, W), a volume (N, C, D, H, W) or a signal (N, C, L), and "
            f"{type(recording.root).__name__} takes {shown}. If it takes images too, pass example_inputs= with one."
        )
    return max(images, key=lambda node: (len(shape_of(node)), math.prod(shape_of(node))))


def _describe_input(node: fx.Node) -> str:
    value = meta_of(node).value
    shown = f"{node} of shape {shape_of(node)}"
    if not isinstance(value, TensorMeta) or value.dtype.is_floating_point:
        return shown
    return f"{shown} and of {value.dtype}, which is no floating-point number"


def _is_element_of_input(node: fx.Node) -> bool:
    """Say whether a value is an element of an input that is a list, or a signal that is given its channel axis."""
    if node.target not in (operator.getitem, "unsqueeze", torch.unsqueeze):
        return False
    source = node.args[0] if node.args else node.kwargs.get("input")
    if not isinstance(source, fx.Node) or source.op != "placeholder":
        return False
    shape = shape_of(source)
    return node.target is operator.getitem or (len(shape) == 2 and shape_of(node) == (shape[0], 1, shape[1]))


def _may_be_image(node: fx.Node) -> bool:
    value = meta_of(node).value
    return isinstance(value, TensorMeta) and len(value.shape) >= 3 and value.dtype.is_floating_point


def record_larger_image(setup: Setup, recording: Recording) -> Recording | None:
    """Record the model with an image of another size; None where it takes no other."""
    example = setup.examples[0]
    signals = tuple(group for group in find_length_axes(example) if group.name == "length 2")
    groups = find_image_axes(example) or signals
    examples = (enlarge(example, groups, *growth) for growth in _GROWTHS) if groups else ()
    return record_larger(setup, recording, examples)


def pair_shapes(recording: Recording, larger: Recording) -> dict[fx.Node, tuple[int, ...]]:
    """Map each tensor of a recording to its shape in a recording at another size.

    Nodes are paired by position where both ran the same steps, else by name.
    """
    left, right = recording.nodes, larger.nodes
    if [(node.op, str(node.target)) for node in left] == [(node.op, str(node.target)) for node in right]:
        pairs = list(zip(left, right, strict=True))
    else:
        names = name_nodes(larger).nodes
        pairs = [(node, names[name]) for name, node in name_nodes(recording).nodes.items() if name in names]
    ranks = [(node, other) for node, other in pairs if len(shape_of(node)) == len(shape_of(other))]
    return {node: shape_of(other) for node, other in ranks if shape_of(node)}


def _near(node: fx.Node, layouts: dict[fx.Node, Layout], grids: dict[object, Layout]) -> list[Layout]:
    """List the layouts of the nearest values that a node was computed from, then those of all grids, latest first."""
    nearest = itertools.islice(nearest_layouts(node, layouts), _MOST_NEAR)
    return [*nearest, *reversed(grids.values())]
