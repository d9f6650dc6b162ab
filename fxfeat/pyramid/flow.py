"""How an image flows through a recording, and which values all of it passes through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import networkx as nx
from torch import fx

from fxfeat.ir.node_meta import Storage, holds_tensor, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import nodes_in
from fxfeat.pyramid.layout import Layout

SINK = "output"
Sources = dict[fx.Node, frozenset[fx.Node]]


def draw_flow(recording: Recording, image: fx.Node) -> nx.DiGraph:
    """Draw an edge from each tensor to those computed from it, for all that is computed from the image.

    Sizes are left out: a size read from a map does not carry the map. What the model returns leads to ``SINK``.
    """
    drawn = nx.DiGraph()
    drawn.add_edges_from(_find_edges(recording))
    drawn.remove_nodes_from([node for node in drawn if not holds_tensor(meta_of(node).value)])
    drawn.add_node(image)
    reached = {image, *nx.descendants(drawn, image)}
    flow = nx.DiGraph(drawn.subgraph(reached))
    flow.add_edges_from((node, SINK) for node in nodes_in(recording.result) if node in reached)
    if SINK in flow:
        flow.remove_nodes_from(set(flow) - {SINK} - nx.ancestors(flow, SINK))
    return flow


def _find_edges(recording: Recording) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Yield edges from what a node reads, and from what overwrote that since it was produced.

    What was overwritten before it was produced is left out, which memory alone could not tell: an activation in place,
    then a view of it, then a pool is one line, and the view must not be passed by.
    """
    writers: dict[Storage, fx.Node] = {}
    for node in recording.graph.nodes:
        for source in node.all_input_nodes:
            yield source, node
            late = (writers[memory] for memory in meta_of(source).aliases if memory in writers)
            yield from ((writer, node) for writer in late if meta_of(writer).position > meta_of(source).position)
        writers.update(dict.fromkeys(meta_of(node).writes, node))


def find_chain(flow: nx.DiGraph, image: fx.Node, target: fx.Node | str) -> list[fx.Node]:
    """List the values that every path from the image to a target goes through, in order."""
    above: dict[fx.Node | str, fx.Node] = nx.immediate_dominators(flow, image)
    chain: list[fx.Node] = []
    found = above.get(target)
    while found is not None and found not in chain[-1:]:
        chain.append(found)
        found = above.get(found)
    return chain[::-1]


def find_sources(flow: nx.DiGraph, layouts: Mapping[fx.Node, Layout]) -> Sources:
    """Map each value to the maps that it was computed from, in the order in which they ran.

    A map may be cut up and put together again: values without a layout hand on those that they come from.
    """
    handed: Sources = {}
    found: Sources = {}
    nothing: frozenset[fx.Node] = frozenset()
    for node in sorted((node for node in flow if node is not SINK), key=lambda node: meta_of(node).position):
        found[node] = nothing.union(*(handed[source] for source in flow.predecessors(node)))
        handed[node] = frozenset({node}) if node in layouts else found[node]
    return found
