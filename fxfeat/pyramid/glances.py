"""Where a block looks at a smaller copy of its map and comes back, on a way that goes on down from the map itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import networkx as nx
from torch import fx, nn

from fxfeat.ir.recording import Recording
from fxfeat.pyramid.flow import Sources, find_sources
from fxfeat.pyramid.resolution import is_drop
from fxfeat.vision.data_flow import find_dominators, results_of
from fxfeat.vision.layout import Layout
from fxfeat.vision.learnt import attends, mixes
from fxfeat.vision.operations import module_of

Layouts = Mapping[fx.Node, Layout]


def leave_glances(recording: Recording, flow: nx.DiGraph, layouts: Layouts) -> nx.DiGraph:
    """Leave out of a flow what lies between a map and where its smaller copies are back at its resolution.

    A copy is a glance where attention looks at it, as at keys and values that were made fewer, or where the way goes
    lower than the map after it. The bottom of a U is none: everything after it leads up.

    Args:
        recording: of the model.
        flow: how the image flows through it.
        layouts: of the maps.
    """
    sources = find_sources(flow, layouts)
    below = find_dominators(flow.reverse(copy=False), results_of(recording))
    glances: set[fx.Node] = set()
    for node in sources:
        above = [layouts[source] for source in sources[node] if node in layouts]
        if any(is_drop(layout, layouts[node]) for layout in above):
            glances |= _find_glance(recording, flow, layouts, sources, below, node)
    return flow.subgraph([node for node in flow if node not in glances])


def _find_glance(
    recording: Recording,
    flow: nx.DiGraph,
    layouts: Layouts,
    sources: Sources,
    below: Mapping[fx.Node, fx.Node | None],
    node: fx.Node,
) -> set[fx.Node]:
    """Find what lies between a step down and where everything that it gave is back up; nothing where it is a level."""
    above = min((layouts[source] for source in sources[node]), key=lambda layout: layout.size)
    way = list(_list_way(below, layouts, above, node))
    if not way or way[-1] not in layouts or is_drop(above, layouts[way[-1]]):
        return set()
    after = nx.descendants(flow, way[-1])
    between = ({node} | nx.descendants(flow, node)) - after - {way[-1]}
    if any(is_drop(layouts[node], layouts[value]) for value in between if value in layouts):
        return set()
    looks = any(_looks(recording, step) for step in way)
    seen = looks and sum(mixes(recording, value) and not attends(value) for value in between) < 2
    lower = any(is_drop(above, layouts[value]) for value in after if value in layouts)
    return between if seen or lower else set()


def _list_way(
    below: Mapping[fx.Node, fx.Node | None], layouts: Layouts, above: Layout, node: fx.Node
) -> Iterator[fx.Node]:
    """Yield what everything computed from a value goes through, up to the first map that is back up."""
    start, step = layouts[node], below.get(node)
    while step is not None:
        if step not in layouts or is_drop(layouts[step], start):
            yield step
        if step in layouts and is_drop(layouts[step], start):
            return
        step = below.get(step)


def _looks(recording: Recording, node: fx.Node) -> bool:
    return attends(node) or isinstance(module_of(recording, node), nn.MultiheadAttention)
