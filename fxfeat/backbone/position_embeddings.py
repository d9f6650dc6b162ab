"""Which values have positions: axes along the image or the sequence, besides the batch and the channels."""

from __future__ import annotations

import contextlib
import math
import operator
from typing import Any

from torch import fx, nn

from fxfeat.backbone.operations import is_pool, module_of, name_of
from fxfeat.errors import TraceError
from fxfeat.inputs.resized import Axis, find_groups, resize
from fxfeat.ir.node_meta import TensorMeta, holds_tensor, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import parts_of
from fxfeat.trace.setup import Setup, record_variant

_RESIZES = {"interpolate", "upsample", "resize"}
ATTENTION = {"scaled_dot_product_attention", "matmul", "bmm", "baddbmm"}


def find_positions(recording: Recording, larger: Recording | None) -> frozenset[fx.Node]:
    """Find the values that still tell positions apart.

    Where the model runs at two sizes, they are those whose shape follows the input's, and maps of a fixed size that
    such a value was resized to. Where it does not, they are those with two axes or more besides the batch that came
    from such values.

    Args:
        recording: a recording.
        larger: the same model on a larger input, if it ran the same code.
    """
    found: set[fx.Node] = set()
    fixed: set[fx.Node] = set()
    twins = larger.nodes if larger is not None else [None] * len(recording.nodes)
    for node, twin in zip(recording.nodes, twins, strict=True):
        if not holds_tensor(meta_of(node).value) or not _comes_with_positions(node, found):
            continue
        if _covers_map(module_of(recording, node), node):
            continue
        if node.op == "placeholder" or not isinstance(meta_of(node).value, TensorMeta) or _grows(node, twin):
            found.add(node)
        elif _is_spread(node) and (twin is None or _is_fixed(recording, node, fixed)):
            found.add(node)
            fixed.add(node)
    return frozenset(found)


def record_larger(setup: Setup, recording: Recording, training: bool | None) -> Recording | None:
    """Record on a larger input; return None where the model does not run on one, or runs other code."""
    example = setup.examples[0]
    groups = find_groups(example)
    images = tuple(group for group in groups if group.name == "extent")
    lengths = tuple(group for group in groups if group.name.startswith("length"))
    for wanted in filter(None, (images, lengths[:1])):
        grown = resize(example, wanted, _double)
        with contextlib.suppress(TraceError):
            larger = record_variant(setup, recording, training, grown)
            if [node.target for node in larger.nodes] == [node.target for node in recording.nodes]:
                return larger
    return None


def _double(axis: Axis) -> int:
    return axis.size * 2


def _comes_with_positions(node: fx.Node, found: set[fx.Node]) -> bool:
    if node.op == "placeholder":
        given = parts_of(meta_of(node).value, TensorMeta)
        return any(len(tensor.shape) > 2 or not tensor.dtype.is_floating_point for tensor in given)
    if name_of(node) in ATTENTION:
        # A query without positions gathers those of keys and values up: attention pooling.
        return any(held in found for held in node.all_input_nodes[:1])
    return any(held in found for held in node.all_input_nodes)


def _grows(node: fx.Node, twin: fx.Node | None) -> bool:
    other = meta_of(twin).value if twin is not None else None
    return isinstance(other, TensorMeta) and meta_of(node).value.shape != other.shape


def _is_spread(node: fx.Node) -> bool:
    return sum(size > 1 for size in meta_of(node).value.shape[1:]) > 1


def _is_fixed(recording: Recording, node: fx.Node, fixed: set[fx.Node]) -> bool:
    """Say whether a value is a map of a fixed size, or computed from one."""
    if any(held in fixed for held in node.all_input_nodes):
        return True
    resizes = (
        is_pool(recording, node) or name_of(node) in _RESIZES or isinstance(module_of(recording, node), nn.Upsample)
    )
    return resizes and math.prod(meta_of(node).value.shape[2:]) > 1


def _covers_map(module: nn.Module | None, node: fx.Node) -> bool:
    """Say whether a convolution or pool takes the whole map at once: a flattening in disguise."""
    kernel, value = getattr(module, "kernel_size", None), meta_of(node).value
    source = meta_of(node.all_input_nodes[0]).value if node.all_input_nodes else None
    if kernel is None or not isinstance(value, TensorMeta) or not isinstance(source, TensorMeta):
        return False
    if name_of(node.all_input_nodes[0]) == "pad":
        return False
    before, after = source.shape[2:], value.shape[2:]
    if len(value.shape) < 3 or math.prod(before) == 1 or math.prod(after) != 1:
        return False
    whole = _each(kernel, len(before)) == before and set(_each(getattr(module, "padding", 0), 1)) == {0}
    # One that steps as far as it reaches makes maps of others, and of this one a map of one position.
    return whole and set(_each(getattr(module, "stride", 1), 1)) == {1}


def _each(value: Any, count: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * count


def find_known_sizes(recording: Recording, positions: frozenset[fx.Node]) -> dict[fx.Node, int]:
    """Find the sizes that were read from values without positions, their batches left out.

    >>> import torch
    >>> from fxfeat.trace.setup import read_setup, record_mode
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> find_known_sizes(record_mode(read_setup(model, None, None, torch.zeros(2, 4)), False), frozenset())
    {}
    """
    found: dict[fx.Node, int] = {}
    for node in recording.nodes:
        if node.target is not operator.getitem or type(meta_of(node).value) is not int or not node.args[1]:
            continue
        shape: Any = node.args[0]
        owner: Any = shape.args[0] if isinstance(shape, fx.Node) and shape.args else None
        is_shape = isinstance(owner, fx.Node) and (shape.target == "size" or "shape" in shape.args[1:])
        if is_shape and isinstance(meta_of(owner).value, TensorMeta) and owner not in positions:
            found[node] = meta_of(node).value
    return found


def find_channels(node: fx.Node, larger: Recording | None) -> int:
    """Find the axis of a value that holds its channels: the one that does not follow the input's size.

    Where that cannot be seen, channels come last in sequences and behind a norm or a linear layer over the last axis,
    and second in maps.
    """
    shape = meta_of(node).value.shape
    if len(shape) < 3:
        return len(shape) - 1
    if larger is not None:
        other = meta_of(larger.nodes[meta_of(node).position]).value.shape
        still = [axis for axis in range(1, len(shape)) if shape[axis] == other[axis]]
        if len(still) == 1:
            return still[0]
    if len(shape) == 3:
        return 2
    maps = shape[2:]
    return len(shape) - 1 if len(set(maps)) > 1 and len(set(shape[1:-1])) == 1 else 1
