"""Clone a feature that a later node, or the next call, overwrites, where it was produced, and only then."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Any

import torch
from torch import fx

from fxfeat.ir.draft import Draft, position
from fxfeat.ir.feature import Feature
from fxfeat.ir.node_meta import NodeMeta, Storage, TensorMeta, meta_of
from fxfeat.ir.tree import map_nodes
from fxfeat.runtime.clone import clone_all


def clone_overwritten(draft: Draft) -> Draft:
    """Make a feature's value independent of what else was asked for, and of later calls."""
    writers = [node for node in draft.graph.nodes if meta_of(node).writes]
    lasting = _memory_of_the_model(draft)
    features = tuple(_keep(draft.graph, writers, lasting, feature) for feature in draft.features)
    return dataclasses.replace(draft, features=features)


def _memory_of_the_model(draft: Draft) -> frozenset[Storage]:
    """Return the memory of buffers and other tensors that the model keeps from call to call."""
    inputs = [meta_of(node).aliases for node in draft.graph.nodes if node.op == "placeholder"]
    return draft.recording.persistent.difference(*inputs)


def _keep(graph: fx.Graph, writers: list[fx.Node], lasting: frozenset[Storage], feature: Feature) -> Feature:
    def clone_if_overwritten(node: fx.Node) -> fx.Node:
        memory = meta_of(node).aliases
        later = any(meta_of(writer).writes & memory for writer in writers if position(writer) >= feature.produced_at)
        if not later and not any(meta_of(writer).writes & memory & lasting for writer in writers):
            return node
        behind = (writer for writer in graph.nodes if position(writer) >= feature.produced_at and writer is not node)
        return _clone(graph, node, next(behind, None))

    value: Any = map_nodes(feature.value, clone_if_overwritten)
    return dataclasses.replace(feature, value=value)


def _clone(graph: fx.Graph, node: fx.Node, before: fx.Node | None) -> fx.Node:
    meta = meta_of(node)
    with nullcontext() if before is None else graph.inserting_before(before):
        clone = graph.call_function(torch.clone if isinstance(meta.value, TensorMeta) else clone_all, (node,))
    clone.meta["fxfeat"] = NodeMeta(meta.position, meta.module_call, meta.value, contexts=meta.contexts)
    return clone
