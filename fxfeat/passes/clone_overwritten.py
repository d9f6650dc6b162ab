"""Clone a feature that a later node, or the next call, overwrites, where it was produced, and only then."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from contextlib import nullcontext

import torch
from torch import fx

from fxfeat.analysis.sole_memory import is_sole
from fxfeat.ir.draft import Draft, position
from fxfeat.ir.feature import Feature
from fxfeat.ir.node_meta import NodeMeta, Storage, TensorMeta, meta_of
from fxfeat.ir.tree import map_nodes, nodes_in
from fxfeat.runtime.clone import clone_all


def clone_overwritten(draft: Draft) -> Draft:
    """Make a feature's value independent of what else was asked for, and of later calls.

    What comes after the feature works on the clone, so that gradients by the feature are there, unless something else
    has the feature's memory: then the clone is the feature.
    """
    lasting = _memory_of_the_model(draft)
    features = draft.features
    for moment in sorted({feature.produced_at for feature in features}):
        wanted = (feature.value for feature in features if feature.produced_at == moment)
        for node in dict.fromkeys(nodes_in(tuple(wanted))):
            features = _keep(draft, lasting, features, node, moment)
    return dataclasses.replace(draft, features=features)


def _memory_of_the_model(draft: Draft) -> frozenset[Storage]:
    """Return the memory of buffers and other tensors that the model keeps from call to call."""
    inputs = [meta_of(node).aliases for node in draft.graph.nodes if node.op == "placeholder"]
    return draft.recording.persistent.difference(*inputs)


def _keep(
    draft: Draft, lasting: frozenset[Storage], features: tuple[Feature, ...], node: fx.Node, moment: int
) -> tuple[Feature, ...]:
    """Keep what the features of a moment have in a node from what is written later."""
    memory = meta_of(node).aliases
    writers = [other for other in draft.graph.nodes if meta_of(other).writes & memory]
    later = [writer for writer in writers if position(writer) >= moment]
    if not later and not any(meta_of(writer).writes & memory & lasting for writer in writers):
        return features
    clone = _clone(draft.graph, node, moment)
    wanted = {part for feature in features if feature.produced_at > moment for part in nodes_in(feature.value)}
    before = _before(draft, moment)
    # A clone is no leaf, which alone may be told to keep gradients or none.
    is_flagged = any(writer.target == "requires_grad_" for writer in later)
    is_kept = is_flagged or bool(memory & draft.recording.persistent)
    if is_kept or not is_sole(clone, node, _written_by(later), before, wanted):
        return tuple(_put(feature, node, clone) if feature.produced_at == moment else feature for feature in features)
    _let_later_nodes_use(clone, node)
    return tuple(_put(feature, node, clone) if feature.produced_at > moment else feature for feature in features)


def _written_by(writers: Iterable[fx.Node]) -> frozenset[Storage]:
    return frozenset[Storage]().union(*(meta_of(writer).writes for writer in writers))


def _before(draft: Draft, moment: int) -> list[fx.Node]:
    return draft.recording.nodes[:moment]


def _clone(graph: fx.Graph, node: fx.Node, moment: int) -> fx.Node:
    meta = meta_of(node)
    before = next((other for other in graph.nodes if position(other) >= moment and other is not node), None)
    with nullcontext() if before is None else graph.inserting_before(before):
        clone = graph.call_function(torch.clone if isinstance(meta.value, TensorMeta) else clone_all, (node,))
    clone.meta["fxfeat"] = NodeMeta(meta.position, meta.module_call, meta.value, contexts=meta.contexts)
    return clone


def _let_later_nodes_use(clone: fx.Node, node: fx.Node) -> None:
    nodes = list(node.graph.nodes)
    behind = set(nodes[nodes.index(clone) + 1 :])
    node.replace_all_uses_with(clone, behind.__contains__)
    clone.meta["fxfeat"] = dataclasses.replace(meta_of(clone), aliases=meta_of(node).aliases)


def _put(feature: Feature, node: fx.Node, clone: fx.Node) -> Feature:
    return dataclasses.replace(feature, value=map_nodes(feature.value, lambda part: clone if part is node else part))
