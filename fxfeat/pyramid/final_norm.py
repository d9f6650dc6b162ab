"""The norm that a model applies to its last map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import networkx as nx
from torch import fx

from fxfeat.errors import RequestError
from fxfeat.ir.recording import Recording
from fxfeat.names.table import name_nodes
from fxfeat.pyramid.flow import draw_image_flow
from fxfeat.pyramid.search import LevelSearch
from fxfeat.vision.layout import Layout
from fxfeat.vision.learnt import has_weights
from fxfeat.vision.operations import NORMS, function_of
from fxfeat.vision.shapes import is_tensor, position_of
from fxfeat.vision.value_names import name_value


@dataclass(frozen=True)
class Normed:
    """The last map of a model after its final norm: the name to ask for it by, and how it holds the map.

    ``path`` is the module that norms, where one does that takes nothing but the map and has as many axes before it as
    behind it.
    """

    name: str
    layout: Layout
    path: str | None


def find_final_norm(search: LevelSearch) -> Normed | None:
    """Find the norm after the last level of a model; None where it has none that works on the map.

    It is the first module whose weights are vectors of the map's width, or function of PyTorch's, that takes in a map
    after the last block and gives one of the same grid and width.

    Args:
        search: the levels of the model.
    """
    recording, last = search.recording, search.levels[-1]
    flow = draw_image_flow(recording, search.maps.image)
    for node in _list_normed(recording, last.layout.channels):
        layout = search.maps.layouts.get(node)
        if layout is None or not _is_like(layout, last.layout) or not _comes_after(flow, node, last.node):
            continue
        name = name_value(recording, node, name_nodes(recording))
        if name is not None:
            return Normed(name, layout, _find_module(recording, node, layout.channels))
    return None


def has_final_norm(search: LevelSearch) -> bool:
    """Say whether anything may norm the last level, with nothing before it that has a matrix or kernel of its own."""
    recording, last = search.recording, search.levels[-1]
    normed = set(_list_normed(recording, last.layout.channels))
    waiting, seen = [last.node], {last.node}
    while waiting:
        after = [node for node in waiting.pop().users if node not in seen]
        if normed.intersection(after):
            return True
        seen.update(after)
        waiting += [node for node in after if not has_weights(recording, node)]
    return False


def find_norm_path(search: LevelSearch) -> str | None:
    """Find the module of the final norm, where it can be applied to the value of the last level as it is."""
    normed = find_final_norm(search)
    if normed is None or _turns(normed.layout, search.levels[-1].layout):
        return None
    return normed.path


def check_norm(path: str | None, indices: Iterable[int], last: int, flat: bool, model: str) -> str:
    """Check that the final norm fits some levels: any block of a flat model, and the last level of others.

    >>> check_norm("norm", (10, 11), 11, True, "ViT")
    'norm'

    Args:
        path: the module of the final norm.
        indices: of the levels.
        last: the index of the last level.
        flat: whether the levels are blocks at one resolution.
        model: what the model is called.

    Raises:
        RequestError: where there is no norm, or it does not fit one of the levels.
    """
    if path is None:
        raise RequestError(f"norm=True was asked for, and {model} has no final norm that can be applied to a map.")
    unfit = next((index for index in sorted(set(indices)) if not flat and index != last), None)
    if unfit is None:
        return path
    raise RequestError(
        f"norm=True was asked for, and the final norm of {model}, {path!r}, fits its last level, {last}, and not level "
        f"{unfit}. Ask for the last alone, or leave norm out."
    )


def _turns(layout: Layout, level: Layout) -> bool:
    """Say whether the model brings a level's channels to another axis before it norms it."""
    return (layout.order == "NCHW") != (level.order == "NCHW")


def _find_module(recording: Recording, node: fx.Node, width: int) -> str | None:
    """Find the innermost module that returned a normed value, and takes nothing but what it norms."""
    calls = [call for call in recording.module_calls[1:] if call.result is node]
    norms = [call for call in calls if _is_norm(recording, call.path, width)]
    return norms[-1].path if norms and len(norms[-1].args) == 1 and not norms[-1].kwargs else None


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
