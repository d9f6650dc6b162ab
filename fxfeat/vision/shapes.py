"""The shapes of values, and when they were computed."""

from __future__ import annotations

from torch import fx

from fxfeat.ir.node_meta import TensorMeta, meta_of

Shape = tuple[int, ...]


def is_tensor(node: fx.Node) -> bool:
    """Say whether a value is one tensor."""
    return isinstance(meta_of(node).value, TensorMeta)


def shape_of(node: fx.Node) -> Shape:
    """Return the shape of a value; that of a number if it is no tensor."""
    value = meta_of(node).value
    return value.shape if isinstance(value, TensorMeta) else ()


def position_of(node: fx.Node) -> int:
    """Return how many calls were made before one."""
    return meta_of(node).position
