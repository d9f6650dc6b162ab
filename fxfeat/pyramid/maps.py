"""Which values of a recording are maps of the image, and in which layout."""

from __future__ import annotations

import contextlib
import operator
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import fx

from fxfeat.errors import FxfeatError, TraceError
from fxfeat.inputs.resized import Axis, Group, find_groups, resize
from fxfeat.ir.example import Example
from fxfeat.ir.node_meta import TensorMeta, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.names.table import name_nodes
from fxfeat.pyramid.layout import Extent, Layout, Shape, read_layout
from fxfeat.pyramid.mixing import attends, slides
from fxfeat.pyramid.token_order import is_shuffled
from fxfeat.trace.setup import Setup, record_variant

_MOST_NEAR = 6


@dataclass(frozen=True)
class Maps:
    """The maps of one recording.

    Attributes:
        image: the input that holds the image.
        extent: the image's sizes.
        layouts: the layout of each value that holds a map of the image, the image itself included.
    """

    image: fx.Node
    extent: Extent
    layouts: dict[fx.Node, Layout]


def find_maps(setup: Setup, recording: Recording) -> Maps:
    """Read the layout of every value from shapes: over two image sizes where the model takes a second one.

    Args:
        setup: the model and its example.
        recording: of the model in eval mode.

    Raises:
        TraceError: where no input is an image, a volume or a signal.
    """
    image = find_image(recording)
    larger = record_larger(setup, recording)
    found = None if larger is None else _read_maps(recording, image, pair_shapes(recording, larger))
    # A model that resizes its input has maps of one size for images of all sizes.
    return found if found is not None and len(found.layouts) > 1 else _read_maps(recording, image, None)


def _read_maps(recording: Recording, image: fx.Node, larger: dict[fx.Node, Shape] | None) -> Maps:
    extent = Extent(_shape(image)[0], _shape(image)[2:], None if larger is None else larger[image][2:])
    layouts: dict[fx.Node, Layout] = {image: Layout("NCHW", extent.grid, _shape(image)[1], (1.0,) * len(extent.grid))}
    grids: dict[object, Layout] = {}
    for node in recording.graph.nodes:
        shape, other = _shape(node), None if larger is None else larger.get(node)
        if node is image or node.op in ("placeholder", "get_attr") or (larger is not None and other is None):
            continue
        if len(shape) > 3 and attends(node):
            continue
        found = read_layout(shape, other, extent, _near(node, layouts, grids), slides(recording, node))
        if found is not None:
            found = replace(found, shuffled=is_shuffled(node, found, layouts))
            layouts[node] = found
            grids[found.grid, found.scale] = found
    return Maps(image, extent, layouts)


def find_image(recording: Recording) -> fx.Node:
    """Find the input with the most axes, the largest among them.

    Raises:
        TraceError: where there is none of at least three axes, floating.
    """
    inputs = [node for node in recording.graph.nodes if node.op == "placeholder"]
    inputs += [node for node in recording.graph.nodes if _is_element_of_input(node)]
    found = [node for node in inputs if _may_be_image(node)]
    if not found:
        shown = ", ".join(f"{node} of shape {_shape(node)}" for node in inputs if _shape(node)) or "no tensor"
        raise TraceError(
            f"A feature pyramid needs an image (N, C, H, W), a volume (N, C, D, H, W) or a signal (N, C, L), and "
            f"{type(recording.root).__name__} takes {shown}. If it takes images too, pass example_inputs= with one."
        )
    return max(found, key=lambda node: (len(_shape(node)), _count(_shape(node))))


def _is_element_of_input(node: fx.Node) -> bool:
    return node.target is operator.getitem and getattr(node.args[0], "op", "") == "placeholder"


def _may_be_image(node: fx.Node) -> bool:
    value = meta_of(node).value
    return isinstance(value, TensorMeta) and len(value.shape) >= 3 and value.dtype.is_floating_point


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = meta_of(node).value
    return value.shape if isinstance(value, TensorMeta) else ()


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def record_larger(setup: Setup, recording: Recording) -> Recording | None:
    """Record the model with an image of another size; None where it takes no other."""
    for example in _enlarge(setup.examples[0]):
        with contextlib.suppress(FxfeatError):
            return record_variant(setup, recording, recording.training, example)
    return None


def _enlarge(example: Example) -> Iterator[Example]:
    """Yield examples with larger images, likeliest to suit a model first: multiples suit windows and patches."""
    groups = tuple(group for group in find_groups(example) if group.name == "extent") or _signals(example)
    if not groups:
        return
    for tall, wide in ((3, 2), (2, 2)):

        def grow(axis: Axis, tall: int = tall, wide: int = wide) -> int:
            return axis.size * (tall if axis.dimension % 2 == 0 else wide)

        yield resize(example, groups, grow)


def _signals(example: Example) -> tuple[Group, ...]:
    return tuple(group for group in find_groups(example) if group.name == "length 2")


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
    ranks = [(node, other) for node, other in pairs if len(_shape(node)) == len(_shape(other))]
    return {node: _shape(other) for node, other in ranks if _shape(node)}


def _near(node: fx.Node, layouts: dict[fx.Node, Layout], grids: dict[object, Layout]) -> list[Layout]:
    """List the layouts of the nearest values that a node was computed from, then those of all grids, latest first."""
    seen, waiting = {node}, deque(node.all_input_nodes)
    found: list[Layout] = []
    while waiting and len(found) < _MOST_NEAR:
        source = waiting.popleft()
        if source in seen:
            continue
        seen.add(source)
        if source in layouts:
            found.append(layouts[source])
        else:
            waiting.extend(source.all_input_nodes)
    return [*found, *reversed(grids.values())]
