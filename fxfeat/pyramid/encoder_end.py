"""Where the encoder of a model with several ways out ends: before its decoder, and before heads on several maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import networkx as nx
from torch import fx

from fxfeat.ir.module_call import ModuleCall
from fxfeat.ir.recording import Recording
from fxfeat.pyramid.flow import Sources, find_sources
from fxfeat.pyramid.maps import Maps
from fxfeat.pyramid.resolution import is_drop
from fxfeat.vision.layout import Layout
from fxfeat.vision.operations import CONVOLUTION_LAYERS
from fxfeat.vision.shapes import position_of, shape_of

Layouts = Mapping[fx.Node, Layout]


def find_decoder(recording: Recording, flow: nx.DiGraph, maps: Maps, ran: list[fx.Node]) -> int:
    """Find where the first module begins that leads up in resolution, after which nothing goes lower than before it.

    It may go lower itself: a feature pyramid network makes levels of its own.

    Args:
        recording: of the model.
        flow: how the image flows through it.
        maps: of that recording.
        ran: the maps of the flow, in order.

    Returns:
        The position where it begins; that of the end where there is none.
    """
    layouts, sources = maps.layouts, find_sources(flow, maps.layouts)
    for node in ran:
        if not any(is_drop(layouts[node], layouts[source]) for source in sources[node]):
            continue
        for call in _list_holding(recording, node):
            before = [value for value in ran if position_of(value) < call.start]
            lowest = max((layouts[value] for value in before), key=lambda layout: layout.size, default=None)
            if lowest is None or not is_drop(layouts[maps.image], lowest) or _is_nested(recording, call):
                continue
            if not any(
                _goes_lower(value, lowest, sources, layouts) for value in ran if position_of(value) >= call.stop
            ):
                return call.start
            break
    return len(recording.nodes)


def _list_holding(recording: Recording, node: fx.Node) -> list[ModuleCall]:
    return [
        call for call in recording.module_calls[1:] if call.start <= position_of(node) < call.stop and not call.leaf
    ]


def _is_nested(recording: Recording, call: ModuleCall) -> bool:
    """Say whether modules of one class are called inside each other, as each step of a U may hold all lower ones."""
    kind = type(recording.root.get_submodule(call.path))
    alike = [each for each in recording.module_calls[1:] if type(recording.root.get_submodule(each.path)) is kind]
    return any(each is not call and (_is_inside(each, call) or _is_inside(call, each)) for each in alike)


def _is_inside(inner: ModuleCall, outer: ModuleCall) -> bool:
    return outer.start <= inner.start and inner.stop <= outer.stop and inner.path.startswith(f"{outer.path}.")


def _goes_lower(node: fx.Node, lowest: Layout, sources: Sources, layouts: Layouts) -> bool:
    lowers = any(is_drop(layouts[source], layouts[node]) for source in sources[node])
    return lowers and is_drop(lowest, layouts[node])


def leave_heads(recording: Recording, flow: nx.DiGraph, layouts: Layouts, low: list[fx.Node]) -> fx.Node:
    """Take the last map of the lowest resolution that no head made.

    Args:
        recording: of the model.
        flow: how the image flows through it.
        layouts: of the maps.
        low: maps of the lowest resolution, in order.
    """
    first, bottom = low[0], low[-1]
    before_bottom = {bottom, *nx.ancestors(flow, bottom)}
    between = [call for call in recording.module_calls[1:] if position_of(first) < call.start <= position_of(bottom)]
    leading = [call for call in between if position_of(bottom) < call.stop or _gives(call, before_bottom)]
    head = next((call for call in leading if _is_head(recording, flow, layouts, call)), None)
    before = [node for node in low if head is None or position_of(node) < head.start]
    return before[-1] if head is None or before[-1] is bottom else leave_heads(recording, flow, layouts, before)


def _is_head(recording: Recording, flow: nx.DiGraph, layouts: Layouts, call: ModuleCall) -> bool:
    """Say whether a call is one of several on maps of several resolutions: of one module, one list, or 1x1."""
    result = call.result
    if not isinstance(result, fx.Node) or result not in layouts or result not in flow:
        return False
    others = [
        other.result
        for other in recording.module_calls
        if other.parent == call.parent and _is_beside(recording, other, call)
    ]
    maps = [other for other in others if isinstance(other, fx.Node) and other in layouts and other in flow]
    return any(
        is_drop(layouts[other], layouts[result])
        and not nx.has_path(flow, other, result)
        and not nx.has_path(flow, result, other)
        for other in maps
    )


def _is_beside(recording: Recording, other: ModuleCall, call: ModuleCall) -> bool:
    if other is call:
        return False
    if _is_projection(recording, call) and _is_projection(recording, other):
        return shape_of(cast("fx.Node", call.result))[1] == shape_of(cast("fx.Node", other.result))[1]
    container, _, index = call.path.rpartition(".")
    beside, _, place = other.path.rpartition(".")
    return other.path == call.path or (index.isdigit() and place.isdigit() and container == beside)


def _is_projection(recording: Recording, call: ModuleCall) -> bool:
    """Say whether a call is one 1x1 convolution."""
    layer = recording.root.get_submodule(call.path)
    return isinstance(layer, CONVOLUTION_LAYERS) and isinstance(call.result, fx.Node) and set(layer.kernel_size) == {1}


def _gives(call: ModuleCall, nodes: set[fx.Node]) -> bool:
    return isinstance(call.result, fx.Node) and call.result in nodes
