"""The values that every path from a model's input to one of its values goes through."""

from __future__ import annotations

import networkx as nx
from torch import fx

from fxfeat.analysis.dependencies import draw_dependencies
from fxfeat.ir.node_meta import holds_tensor, meta_of
from fxfeat.ir.recording import Recording

_START = "start"


def draw_data(recording: Recording) -> nx.DiGraph:
    """Draw which tensors are computed from which; sizes read from tensors are left out."""
    drawn = draw_dependencies(recording.nodes)
    return drawn.subgraph([node for node in drawn if holds_tensor(meta_of(node).value)])


def find_chain(drawn: nx.DiGraph, inputs: list[fx.Node], end: fx.Node) -> list[fx.Node]:
    """List the dominators of a value, first to last, the value itself included."""
    between = nx.ancestors(drawn, end) | {end}
    reached = {node for source in inputs if source in between for node in {source, *nx.descendants(drawn, source)}}
    ways = nx.DiGraph(drawn.subgraph(between & reached))
    if end not in ways:
        return []
    ways.add_edges_from((_START, source) for source in inputs if source in ways)
    above = nx.immediate_dominators(ways, _START)
    chain = [end]
    while above[chain[-1]] != _START:
        chain.append(above[chain[-1]])
    return chain[::-1]


def inputs_of(recording: Recording) -> list[fx.Node]:
    """List the inputs that hold tensors."""
    return [node for node in recording.nodes if node.op == "placeholder" and holds_tensor(meta_of(node).value)]
