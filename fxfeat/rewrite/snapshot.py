"""Clone a feature that a later node overwrites, where it was produced, and only then."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from fxfeat.record.recording import Facts, TensorFacts, facts
from fxfeat.record.structure import clone_all
from fxfeat.record.written import map_nodes
from fxfeat.rewrite.draft import Draft, position
from fxfeat.select.features import Feature


def snapshot(draft: Draft) -> Draft:
    """Make a feature's value independent of what else was asked for."""
    writers = [node for node in draft.graph.nodes if facts(node).writes]
    features = tuple(_keep(draft.graph, writers, feature) for feature in draft.features)
    return dataclasses.replace(draft, features=features)


def _keep(graph: fx.Graph, writers: list[fx.Node], feature: Feature) -> Feature:
    def clone_if_overwritten(node: fx.Node) -> fx.Node:
        later = (held for held in writers if position(held) >= feature.moment)
        if not any(facts(held).writes & facts(node).storages for held in later):
            return node
        before = next(n for n in graph.nodes if position(n) >= feature.moment and n is not node)
        return _clone(graph, node, before)

    value: Any = map_nodes(feature.value, clone_if_overwritten)
    return dataclasses.replace(feature, value=value)


def _clone(graph: fx.Graph, node: fx.Node, before: fx.Node) -> fx.Node:
    known = facts(node)
    with graph.inserting_before(before):
        clone = graph.call_function(torch.clone if isinstance(known.value, TensorFacts) else clone_all, (node,))
    clone.meta["facts"] = Facts(known.position, known.span, known.value, contexts=known.contexts)
    return clone
