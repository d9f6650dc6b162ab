"""Recordings with nodes of their own: as they are, or as they would be in train mode where code does not go by that."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from torch import fx

from fxfeat.ir.feature import Feature
from fxfeat.ir.module_call import ModuleCall
from fxfeat.ir.node_meta import RNG, Storage, amend, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import map_nodes, nodes_in
from fxfeat.ir.value_replacement import Replaced

_WITH_NODES = ("guards", "dtype_reads", "unsupported")


def derive_training(recording: Recording) -> Recording:
    """Return what a run in train mode would have left behind.

    Args:
        recording: one in eval mode, with ``same_in_training`` and no replaced values.
    """
    return copy_nodes(as_training(recording), in_training=True)


def as_training(recording: Recording) -> Recording:
    """Say of a recording in eval mode what is true in train mode, but for what single nodes do."""
    written = frozenset[Storage]().union(*(meta_of(node).in_training for node in recording.nodes)) - {RNG}
    return dataclasses.replace(
        recording,
        training=True,
        derived=True,
        persistent=recording.persistent | written,
        writes_state=recording.writes_state or bool(written),
    )


def copy_nodes(recording: Recording, in_training: bool = False) -> Recording:
    """Return a recording with nodes of its own, which do what they would do in train mode if that is asked for."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in recording.graph.nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
        _amend(copies[node], copies, in_training)
    copy = copies.__getitem__
    changed: dict[str, Any] = {
        name: tuple(_copy(part, copy) for part in getattr(recording, name)) for name in _WITH_NODES
    }
    return dataclasses.replace(
        recording,
        graph=graph,
        module_calls=tuple(_copy_call(call, copy) for call in recording.module_calls),
        result=map_nodes(recording.result, copy),
        replaced=tuple(_copy_replaced(replaced, copy) for replaced in recording.replaced),
        **changed,
    )


def _amend(node: fx.Node, copies: dict[fx.Node, fx.Node], in_training: bool) -> None:
    meta = meta_of(node)
    changes: dict[str, Any] = {}
    if meta.same_as is not None:
        changes["same_as"] = copies[meta.same_as]
    if in_training and meta.in_training:
        changes |= {"reads": meta.reads | meta.in_training, "writes": meta.writes | meta.in_training}
        changes |= {"draws": meta.draws or RNG in meta.in_training}
    if changes:
        amend(node, **changes)


def _copy(part: Any, copy: Callable[[fx.Node], fx.Node]) -> Any:
    """Copy a dataclass whose fields are nodes."""
    nodes = {name: copy(value) for name, value in vars(part).items() if isinstance(value, fx.Node)}
    return dataclasses.replace(part, **nodes) if nodes else part


def _copy_replaced(replaced: Replaced, copy: Callable[[fx.Node], fx.Node]) -> Replaced:
    results = tuple((steps, copy(node)) for steps, node in replaced.result_nodes)
    copied: Replaced = _copy(replaced, copy)
    return dataclasses.replace(copied, result=map_nodes(replaced.result, copy), result_nodes=results)


def _copy_call(call: ModuleCall, copy: Callable[[fx.Node], fx.Node]) -> ModuleCall:
    other = object.__new__(ModuleCall)
    given = {name: map_nodes(getattr(call, name), copy) for name in ("args", "kwargs", "result", "after_hooks")}
    results = tuple((steps, copy(node)) for steps, node in call.result_nodes)
    other.__dict__.update(vars(call), **given, result_nodes=results)
    return other


def are_clear(recording: Recording, features: Iterable[Feature]) -> bool:
    """Say whether the features of a derived recording share their memory with no more than they do in train mode.

    In eval mode dropout gives what it was given: what is written there later is memory of another tensor in train mode.
    """
    written_at = _last_writes_to_dropped(recording)
    nodes = ((feature.produced_at, node) for feature in features for node in nodes_in(feature.value))
    return not any(written_at.get(memory, -1) >= moment for moment, node in nodes for memory in meta_of(node).aliases)


def _last_writes_to_dropped(recording: Recording) -> dict[Storage, int]:
    """Tell when memory that parts are dropped of is last written to; what drops in place is the tensor itself."""
    written_at: dict[Storage, int] = {}
    for meta in map(meta_of, recording.nodes):
        written_at.update((memory, meta.position) for memory in meta.writes if memory in written_at)
        if RNG in meta.in_training:
            written_at.update((memory, written_at.get(memory, -1)) for memory in meta.aliases)
            written_at.update((memory, len(recording.nodes)) for memory in meta.in_training & meta.aliases)
    return written_at
