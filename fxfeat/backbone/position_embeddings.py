"""Which values have positions: axes along the image or the sequence, besides the batch and the channels."""

from __future__ import annotations

import math
import operator
from typing import Any

from torch import fx, nn

from fxfeat.ir.node_meta import TensorMeta, holds_tensor, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import leaves_of
from fxfeat.trace.setup import Setup
from fxfeat.vision.larger_recording import enlarge, find_image_axes, find_length_axes, record_larger
from fxfeat.vision.operations import ATTENTION, function_of, is_pool, module_of
from fxfeat.vision.shapes import is_tensor, position_of, shape_of

_RESIZES = frozenset(("interpolate", "upsample", "resize"))


def find_positions(recording: Recording, larger: Recording | None) -> frozenset[fx.Node]:
    """Find the values that still tell positions apart.

    Where the model runs at two sizes, they are those whose shape follows the input's, and maps of a fixed size that
    such a value was resized to. Where it does not, they are those with two axes or more besides the batch that came
    from such values.

    Args:
        recording: a recording.
        larger: the same model on a larger input, if it ran the same code.
    """
    spread: set[fx.Node] = set()
    fixed: set[fx.Node] = set()
    twins = larger.nodes if larger is not None else [None] * len(recording.nodes)
    for node, twin in zip(recording.nodes, twins, strict=True):
        if not holds_tensor(meta_of(node).value) or not _comes_with_positions(node, spread):
            continue
        if _covers_map(module_of(recording, node), node):
            continue
        if node.op == "placeholder" or not is_tensor(node) or _grows(node, twin):
            spread.add(node)
        elif _has_axes(node) and (twin is None or _is_fixed(recording, node, fixed)):
            spread.add(node)
            fixed.add(node)
    return frozenset(spread)


def record_same_code(setup: Setup, recording: Recording) -> Recording | None:
    """Record on a larger input; return None where the model does not run on one, or runs other code."""
    example = setup.examples[0]
    # The positions of a sequence come before its channels, those of a signal behind them.
    groups = filter(None, (find_image_axes(example), *((axis,) for axis in find_length_axes(example))))
    targets = [node.target for node in recording.nodes]

    def runs_same_code(larger: Recording) -> bool:
        return [node.target for node in larger.nodes] == targets

    return record_larger(setup, recording, (enlarge(example, group, 2, 2) for group in groups), runs_same_code)


def _comes_with_positions(node: fx.Node, spread: set[fx.Node]) -> bool:
    if node.op == "placeholder":
        given = [value for value in leaves_of(meta_of(node).value) if isinstance(value, TensorMeta)]
        return any(len(value.shape) > 2 or not value.dtype.is_floating_point for value in given)
    # A query without positions gathers those of keys and values up: attention pooling.
    sources = node.all_input_nodes[:1] if function_of(node) in ATTENTION else node.all_input_nodes
    return not spread.isdisjoint(sources)


def _grows(node: fx.Node, twin: fx.Node | None) -> bool:
    return twin is not None and is_tensor(twin) and shape_of(node) != shape_of(twin)


def _has_axes(node: fx.Node) -> bool:
    """Say whether a value has two axes or more besides the batch."""
    return sum(size > 1 for size in shape_of(node)[1:]) > 1


def _is_fixed(recording: Recording, node: fx.Node, fixed: set[fx.Node]) -> bool:
    """Say whether a value is a map of a fixed size, or computed from one."""
    if not fixed.isdisjoint(node.all_input_nodes):
        return True
    interpolates = function_of(node) in _RESIZES or isinstance(module_of(recording, node), nn.Upsample)
    return (interpolates or is_pool(recording, node)) and math.prod(shape_of(node)[2:]) > 1


def _covers_map(module: nn.Module | None, node: fx.Node) -> bool:
    """Say whether a convolution or pool takes the whole map at once: a flattening in disguise."""
    kernel = getattr(module, "kernel_size", None)
    source = next(iter(node.all_input_nodes), None)
    if kernel is None or source is None or not is_tensor(node) or not is_tensor(source):
        return False
    before, after = shape_of(source)[2:], shape_of(node)[2:]
    if function_of(source) == "pad" or not after or math.prod(before) == 1 or math.prod(after) != 1:
        return False
    whole = _each(kernel, len(before)) == before and set(_each(getattr(module, "padding", 0), 1)) == {0}
    # One that steps as far as it reaches makes maps of others, and of this one a map of one position.
    return whole and set(_each(getattr(module, "stride", 1), 1)) == {1}


def _each(value: Any, count: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * count


def find_constant_sizes(recording: Recording, positions: frozenset[fx.Node]) -> dict[fx.Node, int]:
    """Find the sizes that were read from values without positions, their batches left out.

    >>> import torch
    >>> from fxfeat.trace.setup import read_setup, record_mode
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> find_constant_sizes(record_mode(read_setup(model, None, None, torch.zeros(2, 4)), False), frozenset())
    {}
    """
    sizes: dict[fx.Node, int] = {}
    for node in recording.nodes:
        if node.target is not operator.getitem or type(meta_of(node).value) is not int or not node.args[1]:
            continue
        shape: Any = node.args[0]
        owner: Any = shape.args[0] if isinstance(shape, fx.Node) and shape.args else None
        is_shape = isinstance(owner, fx.Node) and (shape.target == "size" or "shape" in shape.args[1:])
        if is_shape and is_tensor(owner) and owner not in positions:
            sizes[node] = meta_of(node).value
    return sizes


def find_channels(node: fx.Node, larger: Recording | None) -> int:
    """Find the axis of a value that holds its channels: the one that does not follow the input's size.

    Where that cannot be seen, channels come last in sequences and behind a norm or a linear layer over the last axis,
    and second in maps.
    """
    shape = shape_of(node)
    if len(shape) < 3:
        return len(shape) - 1
    if larger is not None:
        other = shape_of(larger.nodes[position_of(node)])
        still = [axis for axis in range(1, len(shape)) if shape[axis] == other[axis]]
        if len(still) == 1:
            return still[0]
    if len(shape) == 3:
        return 2
    maps = shape[2:]
    return len(shape) - 1 if len(set(maps)) > 1 and len(set(shape[1:-1])) == 1 else 1
