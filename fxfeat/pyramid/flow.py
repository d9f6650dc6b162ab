"""How an image flows through a recording, and which maps each value was computed from."""

from __future__ import annotations

from collections.abc import Mapping

import networkx as nx
from torch import fx

from fxfeat.ir.recording import Recording
from fxfeat.vision.data_flow import draw_data_flow, keep_after, keep_between, results_of
from fxfeat.vision.layout import Layout
from fxfeat.vision.shapes import position_of

Sources = dict[fx.Node, frozenset[fx.Node]]


def draw_image_flow(recording: Recording, image: fx.Node) -> nx.DiGraph:
    """Draw an edge from each tensor to those computed from it, for all on the way from the image to the result.

    Where no result depends on the image, it is all that is computed from the image.
    """
    flow = draw_data_flow(recording)
    return keep_between(flow, [image], results_of(recording)) or keep_after(flow, [image])


def find_sources(flow: nx.DiGraph, layouts: Mapping[fx.Node, Layout]) -> Sources:
    """Map each value to the maps that it was computed from, in the order in which they ran.

    A map may be cut up and put together again: values without a layout hand on those that they come from.
    """
    handed_on: Sources = {}
    sources: Sources = {}
    nothing: frozenset[fx.Node] = frozenset()
    for node in sorted(flow, key=position_of):
        sources[node] = nothing.union(*(handed_on[source] for source in flow.predecessors(node)))
        handed_on[node] = frozenset({node}) if node in layouts else sources[node]
    return sources
