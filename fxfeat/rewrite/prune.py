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
    """Erase every node that neither a feature nor a check depends on.

    Inputs stay, because the emitted ``forward`` keeps the signature of the original.
    """
    nodes = list(draft.graph.nodes)
    checks = [node for node in nodes if node.target is check or facts(node).look]
    needed = find_needed(draft.recording, nodes, draft.features, checks)
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        if node in needed or node.op == "placeholder":
            made[node] = graph.node_copy(node, lambda source: made[source])
    moved = (map_nodes(held.value, made.__getitem__) for held in draft.features)
    features = tuple(dataclasses.replace(held, value=value) for held, value in zip(draft.features, moved, strict=True))
    return dataclasses.replace(draft, graph=graph, features=features)
