"""Keep whole every module that need not be opened: one call of the original submodule."""

from __future__ import annotations

import dataclasses
from collections import deque

from torch import fx

from fxfeat.ir.draft import Draft
from fxfeat.ir.feature import Feature
from fxfeat.ir.guard import Guard
from fxfeat.ir.node_meta import meta_of
from fxfeat.opening.plan_openings import plan_openings
from fxfeat.opening.readings import list_readings
from fxfeat.opening.told import is_told, is_told_dtypes
from fxfeat.opening.unseen_inputs import find_implicit_inputs
from fxfeat.passes.call_meta import only_value
from fxfeat.passes.call_whole import call_whole
from fxfeat.passes.outlined_graph import OutlinedGraph, add_function, copy_node, start_graph, use_node
from fxfeat.passes.write_feature import write_feature
from fxfeat.runtime.check import check


def outline(draft: Draft) -> Draft:
    """Rewrite the recorded graph so that modules which need not be opened are one call each.

    Source: the code an expert writes by hand, ``x = self.layer1(x)``.
    """
    outlined = start_graph(draft, plan_openings(draft))
    recording, plan = outlined.recording, outlined.plan
    features = _write_all(outlined)
    paths = {recording.module_calls[index].path for index in plan.opened} - {""}
    implicit_inputs = find_implicit_inputs(recording, plan)
    return dataclasses.replace(
        draft,
        graph=outlined.graph,
        features=tuple(features[index] for index in range(len(plan.features))),
        opened=tuple(sorted(paths)),
        told=is_told(recording, plan),
        told_dtypes=is_told_dtypes(recording, plan),
        implicit_inputs=tuple(recording.module_calls[index].path for index in implicit_inputs),
        tapped_calls=tuple(outlined.tapped_calls[index] for index in sorted(outlined.tapped_calls)),
        readings=list_readings(recording, plan),
    )


def _write_all(outlined: OutlinedGraph) -> dict[int, Feature]:
    """Write every node, call, guard and feature at the position at which it was recorded."""
    guards = deque(sorted(outlined.plan.guards, key=lambda guard: guard.position))
    silent_calls = deque(_list_silent_calls(outlined))
    features: dict[int, Feature] = {}
    for node in outlined.recording.graph.nodes:
        position = meta_of(node).position
        _write_guards(outlined, guards, position)
        _write_silent_calls(outlined, silent_calls, position)
        _write_node(outlined, node)
        _write_features(outlined, features, position + 1)
    last = position + 1
    _write_guards(outlined, guards, last)
    for index in sorted(outlined.whole_calls - set(outlined.calls)):
        call_whole(outlined, index)
    _write_features(outlined, features, last + 1)
    return features


def _write_node(outlined: OutlinedGraph, node: fx.Node) -> None:
    """Copy a node of opened code; at the first node of a whole call, write the call."""
    index = outlined.home_of(node)
    if index is None and (node in outlined.plan.needed or node.op == "placeholder"):
        copy_node(outlined, node)
    elif index in outlined.whole_calls and index not in outlined.calls:
        call_whole(outlined, index)


def _list_silent_calls(outlined: OutlinedGraph) -> list[int]:
    """List the whole calls that run no operation, and change what Python holds."""
    calls = (outlined.recording.module_calls[index] for index in outlined.whole_calls & outlined.mutates_python)
    return sorted(call.index for call in calls if not outlined.recording.nodes[call.start : call.stop])


def _write_silent_calls(outlined: OutlinedGraph, silent_calls: deque[int], position: int) -> None:
    """Call the modules that run no operation before what comes after them."""
    while silent_calls and outlined.recording.module_calls[silent_calls[0]].start <= position:
        call_whole(outlined, silent_calls.popleft())


def _write_guards(outlined: OutlinedGraph, guards: deque[Guard], position: int) -> None:
    while guards and guards[0].position <= position:
        _write_guard(outlined, guards.popleft())


def _write_guard(outlined: OutlinedGraph, guard: Guard) -> None:
    if guard.node.op == "get_attr":
        return
    place = f"{guard.where}: `{guard.source}`"
    meta = dataclasses.replace(only_value(meta_of(guard.node), None), position=guard.position)
    add_function(outlined, check, (use_node(outlined, guard.node), guard.expected, place), meta)


def _write_features(outlined: OutlinedGraph, features: dict[int, Feature], position: int) -> None:
    for index, feature in enumerate(outlined.plan.features):
        if index not in features and feature.produced_at <= position:
            features[index] = write_feature(outlined, feature)
