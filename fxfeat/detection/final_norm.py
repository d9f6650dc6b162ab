"""The norm that a flat model applies to the map of its last block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import networkx as nx
from torch import fx

from fxfeat.ir.node_meta import TensorMeta, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.names.table import name_nodes
from fxfeat.pyramid.flow import draw_flow
from fxfeat.pyramid.layout import Layout
from fxfeat.pyramid.naming import name_value
from fxfeat.pyramid.search import Found

_FUNCTIONS = frozenset(("layer_norm", "rms_norm", "batch_norm", "group_norm"))


@dataclass(frozen=True)
class Normed:
    """The last map of a flat model after its final norm: the name to ask for it by, and how it holds the map."""

    name: str
    layout: Layout


def find_final_norm(found: Found) -> Normed | None:
    """Find the norm after the last block of a flat model; None where it has none that works on the map.

    It is the first module whose weights are vectors of the map's width, or function of PyTorch's, that takes in a map
    after the last block and gives one of the same grid and width.

    Args:
        found: the blocks of the model.
    """
    recording, last = found.recording, found.levels[-1]
    flow = draw_flow(recording, found.maps.image)
    for node in _list_normed(recording, last.layout.channels):
        layout = found.maps.layouts.get(node)
        if layout is None or not _is_like(layout, last.layout) or not _comes_after(flow, node, last.node):
            continue
        name = name_value(recording, node, name_nodes(recording))
        if name is not None:
            return Normed(name, layout)
    return None


def _list_normed(recording: Recording, width: int) -> Iterator[fx.Node]:
    """Yield what norms returned, in the order in which they ran."""
    normed = {call.result for call in recording.module_calls[1:] if _is_norm(recording, call.path, width)}
    for node in recording.nodes:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if node in normed or (node.op == "call_function" and name in _FUNCTIONS):
            yield node


def _is_norm(recording: Recording, path: str, width: int) -> bool:
    parameters = list(recording.root.get_submodule(path).parameters())
    return bool(parameters) and all(tuple(held.shape) == (width,) for held in parameters)


def _is_like(layout: Layout, last: Layout) -> bool:
    return layout.grid == last.grid and layout.channels == last.channels


def _comes_after(flow: nx.DiGraph, node: fx.Node, last: fx.Node) -> bool:
    if node not in flow or not isinstance(meta_of(node).value, TensorMeta):
        return False
    return meta_of(node).position > meta_of(last).position and nx.has_path(flow, last, node)
