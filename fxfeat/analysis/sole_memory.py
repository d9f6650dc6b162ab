"""Whether a value may give way to a copy of it: nothing else that is used later looks at its memory."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx

from fxfeat.ir.node_meta import Storage, TensorMeta, meta_of

_PARTS = frozenset(
    {
        *("getitem", "__getitem__", "narrow", "select", "chunk", "split", "split_with_sizes", "tensor_split", "unbind"),
        *("hsplit", "vsplit", "dsplit", "unsafe_chunk", "unsafe_split", "unfold", "diagonal", "as_strided", "expand"),
        *("expand_as", "broadcast_to", "broadcast_tensors", "view_as_real", "view_as_complex", "real", "imag"),
    }
)
"""Calls whose result covers all of some memory, gap for gap, on some inputs only."""


def is_sole(
    clone: fx.Node, node: fx.Node, writes: frozenset[Storage], recorded: list[fx.Node], wanted: set[fx.Node]
) -> bool:
    """Say whether all that comes after a copy of a value may use the copy in the value's place.

    Args:
        clone: the copy, at the place in the graph where it is taken.
        node: the value that it is a copy of.
        writes: what is written later by what overwrites the value.
        recorded: the nodes that ran before the copy.
        wanted: the nodes that are returned as they are by the end.
    """
    memory = meta_of(node).aliases
    nodes = list(node.graph.nodes)
    place = nodes.index(clone)
    before, behind = nodes[:place], nodes[place + 1 :]
    # What may be written on another input is memory that may be one with the value's there.
    reached = memory | (writes & _memory_seen(nodes))
    return (
        _is_dense(meta_of(node).value)
        and not any(_takes_part(step) for step in recorded if meta_of(step).aliases & memory)
        and not any(
            _lives_on(other, {clone, *behind}, wanted) for other in _looking_at(before, reached) if other is not node
        )
        and not any(_reaches_unseen(other, reached) for other in behind)
    )


def _is_dense(value: object) -> bool:
    """Say whether a copy has the strides that the value has."""
    if not isinstance(value, TensorMeta) or len(value.stride) != len(value.shape):
        return False
    return torch.empty_strided(value.shape, value.stride, device="meta").clone().stride() == value.stride


def _takes_part(node: fx.Node) -> bool:
    return getattr(node.target, "__name__", node.target) in _PARTS


def _looking_at(nodes: list[fx.Node], memory: frozenset[Storage]) -> list[fx.Node]:
    return [node for node in nodes if meta_of(node).aliases & memory]


def _lives_on(node: fx.Node, behind: set[fx.Node], wanted: set[fx.Node]) -> bool:
    """Say whether a value is used later, or lasts longer than the call."""
    return node.op in ("placeholder", "get_attr") or node in wanted or not behind.isdisjoint(node.users)


def _memory_seen(nodes: Iterable[fx.Node]) -> frozenset[Storage]:
    return frozenset[Storage]().union(*(meta_of(node).aliases for node in nodes))


def _reaches_unseen(node: fx.Node, memory: frozenset[Storage]) -> bool:
    """Say whether a node gets at memory that none of its arguments looks at."""
    meta = meta_of(node)
    touched = (meta.reads | meta.writes | meta.aliases) & memory
    return bool(touched) and not _memory_seen(node.all_input_nodes) & memory
