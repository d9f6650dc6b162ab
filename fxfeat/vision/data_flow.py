"""Which tensors are computed from which, and what every way from some of them to others goes through."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import networkx as nx
from torch import fx

from fxfeat.analysis.dependencies import map_dependencies
from fxfeat.ir.node_meta import Storage, holds_tensor, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import nodes_in
from fxfeat.vision.shapes import position_of

_ENTRY, _EXIT = "entry", "exit"


def draw_data_flow(recording: Recording) -> nx.DiGraph:
    """Draw an edge from each tensor to those computed from it.

    Sizes are left out: a size read from a map does not carry the map.
    """
    drawn = nx.DiGraph()
    drawn.add_nodes_from(recording.nodes)
    drawn.add_edges_from(_find_edges(recording))
    return _keep_tensors(drawn)


def draw_memory_flow(recording: Recording) -> nx.DiGraph:
    """Draw as ``draw_data_flow`` does, and from what last wrote some memory to all that reads it, however long before.

    Every way then passes by views of what was written in place, and a head's features are named by what wrote them.
    """
    drawn = nx.DiGraph()
    for node, dependencies in map_dependencies(recording.nodes).items():
        drawn.add_node(node)
        drawn.add_edges_from((source, node) for source in dependencies)
    return _keep_tensors(drawn)


def _keep_tensors(drawn: nx.DiGraph) -> nx.DiGraph:
    return nx.DiGraph(drawn.subgraph([node for node in drawn if holds_tensor(meta_of(node).value)]))


def _find_edges(recording: Recording) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Yield edges from what a node reads, and from what overwrote that since it was produced.

    What was overwritten before it was produced is left out, which memory alone could not tell: an activation in place,
    then a view of it, then a pool is one line, and the view must not be passed by.
    """
    writers: dict[Storage, fx.Node] = {}
    for node in recording.nodes:
        for source in node.all_input_nodes:
            yield source, node
            late = (writers[memory] for memory in meta_of(source).aliases if memory in writers)
            yield from ((writer, node) for writer in late if position_of(writer) > position_of(source))
        writers.update(dict.fromkeys(meta_of(node).writes, node))


def inputs_of(recording: Recording) -> list[fx.Node]:
    """List the inputs that hold tensors."""
    return [node for node in recording.nodes if node.op == "placeholder" and holds_tensor(meta_of(node).value)]


def results_of(recording: Recording) -> list[fx.Node]:
    """List what the model returns, also in objects of classes of its own."""
    return [*nodes_in(recording.result), *(node for _, node in recording.module_calls[0].result_nodes)]


def keep_after(flow: nx.DiGraph, starts: Iterable[fx.Node]) -> nx.DiGraph:
    """Cut a data flow down to some values and all that is computed from them."""
    return nx.DiGraph(flow.subgraph(_reach(flow, starts)))


def keep_between(flow: nx.DiGraph, starts: Iterable[fx.Node], ends: Iterable[fx.Node]) -> nx.DiGraph:
    """Cut a data flow down to what lies on ways from some values to others, these included."""
    after = keep_after(flow, starts)
    return nx.DiGraph(after.subgraph(_reach(after.reverse(copy=False), ends)))


def _reach(flow: nx.DiGraph, starts: Iterable[fx.Node]) -> set[fx.Node]:
    return {node for start in starts if start in flow for node in (start, *nx.descendants(flow, start))}


def find_dominators(flow: nx.DiGraph, starts: Iterable[fx.Node]) -> dict[fx.Node, fx.Node | None]:
    """Map each value to the last one before it that every way from the starts to it goes through, if there is one.

    Source: dominators of a flow graph, Lengauer and Tarjan 1979.
    """
    rooted = nx.DiGraph(flow)
    rooted.add_node(_ENTRY)
    rooted.add_edges_from((_ENTRY, start) for start in starts if start in flow)
    above = nx.immediate_dominators(rooted, _ENTRY)
    return {node: None if before == _ENTRY else before for node, before in above.items() if node != _ENTRY}


def find_chain(flow: nx.DiGraph, starts: Iterable[fx.Node], ends: Iterable[fx.Node]) -> list[fx.Node]:
    """List the values that every way from some values to others goes through, in order.

    A single start and a single end are the first and the last of them. Where no way leads there, there are none.
    """
    ended = nx.DiGraph(flow)
    ended.add_edges_from((end, _EXIT) for end in ends if end in flow)
    above: dict[Any, fx.Node | None] = dict(find_dominators(ended, starts))
    chain: list[fx.Node] = []
    node = above.get(_EXIT)
    while node is not None:
        chain.append(node)
        node = above[node]
    return chain[::-1]


def list_origins(node: fx.Node, passes: Callable[[fx.Node], bool] = lambda origin: True) -> Iterator[fx.Node]:
    """Yield a value, and all that it was computed from, nearest first.

    Args:
        node: the value.
        passes: says whether to go on to what a value was computed from.
    """
    waiting, listed = deque([node]), {node}
    while waiting:
        origin = waiting.popleft()
        yield origin
        fresh = [source for source in origin.all_input_nodes if source not in listed and passes(origin)]
        listed.update(fresh)
        waiting.extend(fresh)
