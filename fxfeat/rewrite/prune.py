"""Drop what no feature needs, by data or by overwritten memory."""

from __future__ import annotations

import dataclasses

from torch import fx

from fxfeat.record.guards import check
from fxfeat.record.recording import facts
from fxfeat.record.written import map_nodes
from fxfeat.rewrite.dependencies import find_needed
from fxfeat.rewrite.draft import Draft


def prune(draft: Draft) -> Draft:
    """Erase every node that no feature, check or kept update of state depends on.

    Inputs stay, because the emitted ``forward`` keeps the signature of the original.
    """
    nodes = list(draft.graph.nodes)
    kept = [node for node in nodes if node.target is check or facts(node).look or _has_effect(draft, node)]
    needed = find_needed(draft.recording, nodes, draft.features, kept)
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        if node in needed or node.op == "placeholder":
            made[node] = graph.node_copy(node, lambda source: made[source])
    moved = (map_nodes(held.value, made.__getitem__) for held in draft.features)
    features = tuple(dataclasses.replace(held, value=value) for held, value in zip(draft.features, moved, strict=True))
    return dataclasses.replace(draft, graph=graph, features=features)


def _has_effect(draft: Draft, node: fx.Node) -> bool:
    """Say whether a node is there for the next call, or for what later ones find in Python.

    What opened modules had to do to state is settled by now.
    """
    return facts(node).restless or bool(facts(node).writes & draft.recording.persistent)
