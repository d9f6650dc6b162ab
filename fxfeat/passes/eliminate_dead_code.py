"""Drop what no feature needs, by data or by overwritten memory."""

from __future__ import annotations

import dataclasses

from torch import fx

from fxfeat.analysis.dependencies import find_needed, map_dependencies
from fxfeat.ir.draft import Draft
from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.tree import map_nodes
from fxfeat.runtime.check import check


def eliminate_dead_code(draft: Draft) -> Draft:
    """Erase every node that no feature, check or kept update of state depends on.

    Inputs stay, because the emitted ``forward`` keeps the signature of the original.
    """
    nodes = list(draft.graph.nodes)
    effects = [node for node in nodes if node.target is check or meta_of(node).look or _has_effect(draft, node)]
    needed = find_needed(draft.recording, map_dependencies(nodes), draft.features, effects)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        if node in needed or node.op == "placeholder":
            copies[node] = graph.node_copy(node, lambda source: copies[source])
    moved = (map_nodes(feature.value, copies.__getitem__) for feature in draft.features)
    features = tuple(
        dataclasses.replace(feature, value=value) for feature, value in zip(draft.features, moved, strict=True)
    )
    return dataclasses.replace(draft, graph=graph, features=features)


def _has_effect(draft: Draft, node: fx.Node) -> bool:
    """Say whether a node is there for the next call, or for what later ones find in Python.

    What opened modules had to do to state is settled by now.
    """
    return meta_of(node).mutates_python or bool(meta_of(node).writes & draft.recording.persistent)
