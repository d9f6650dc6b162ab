"""The norm that a flat model applies to the map of its last block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import networkx as nx
from torch import fx

from fxfeat.ir.recording import Recording
from fxfeat.names.table import name_nodes
from fxfeat.pyramid.flow import draw_image_flow
from fxfeat.pyramid.search import LevelSearch
from fxfeat.vision.layout import Layout
from fxfeat.vision.operations import NORMS, function_of
from fxfeat.vision.shapes import is_tensor, position_of
from fxfeat.vision.value_names import name_value


@dataclass(frozen=True)
class Normed:
    """The last map of a flat model after its final norm: the name to ask for it by, and how it holds the map."""

    name: str
    layout: Layout


def find_final_norm(search: LevelSearch) -> Normed | None:
    """Find the norm after the last block of a flat model; None where it has none that works on the map.

    It is the first module whose weights are vectors of the map's width, or function of PyTorch's, that takes in a map
    after the last block and gives one of the same grid and width.

    Args:
        search: the blocks of the model.
    """
    recording, last = search.recording, search.levels[-1]
    flow = draw_image_flow(recording, search.maps.image)
    for node in _list_normed(recording, last.layout.channels):
        layout = search.maps.layouts.get(node)
        if layout is None or not _is_like(layout, last.layout) or not _comes_after(flow, node, last.node):
            continue
        name = name_value(recording, node, name_nodes(recording))
        if name is not None:
            return Normed(name, layout)
    return None


def _list_normed(recording: Recording, width: int) -> Iterator[fx.Node]:
    """Yield what norms returned, in the order in which they ran."""
    normed = {call.result for call in recording.module_calls[1:] if _is_norm(recording, call.path, width)}
    yield from (node for node in recording.nodes if node in normed or function_of(node) in NORMS)


def _is_norm(recording: Recording, path: str, width: int) -> bool:
    parameters = list(recording.root.get_submodule(path).parameters())
    return bool(parameters) and all(tuple(parameter.shape) == (width,) for parameter in parameters)


def _is_like(layout: Layout, last: Layout) -> bool:
    return layout.grid == last.grid and layout.channels == last.channels


def _comes_after(flow: nx.DiGraph, node: fx.Node, last: fx.Node) -> bool:
    if node not in flow or not is_tensor(node):
        return False
    return position_of(node) > position_of(last) and nx.has_path(flow, last, node)
