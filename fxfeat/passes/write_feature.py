"""Write what a feature's value is in a graph in which whole module calls are one call each."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import fx

from fxfeat.errors import TraceError
from fxfeat.ir.feature import Feature
from fxfeat.ir.module_call import opaque_in
from fxfeat.ir.node_meta import NodeMeta, meta_of
from fxfeat.ir.tree import map_nodes, nodes_in
from fxfeat.passes.call_meta import only_value, pick_value
from fxfeat.passes.call_whole import call_once
from fxfeat.passes.outlined_graph import OutlinedGraph, add_function, build_objects, follow_steps, use_node
from fxfeat.runtime.clone import clone_all


def write_feature(outlined: OutlinedGraph, feature: Feature) -> Feature:
    """Return a feature whose value is nodes of the new graph."""
    if feature.tap is not None:
        return dataclasses.replace(feature, value=outlined.taps[feature.name], steps=())
    value = _write_value(outlined, feature)
    if feature.steps:
        value = follow_steps(outlined, value, feature.steps, pick_value(meta_of(value), feature.steps))
    return dataclasses.replace(feature, value=value, steps=())


def _write_value(outlined: OutlinedGraph, feature: Feature) -> Any:
    if opaque_in(feature.value):
        return _write_opaque(outlined, feature)
    if _is_whole_result(outlined, feature):
        is_overwritten = _is_overwritten(outlined, feature)
        return _copy_result(outlined, feature) if is_overwritten else call_once(outlined, feature.module_call or 0)
    value: Any = map_nodes(feature.value, lambda node: use_node(outlined, node))
    return build_objects(outlined, value, NodeMeta(feature.produced_at - 1, 0))


def _write_opaque(outlined: OutlinedGraph, feature: Feature) -> fx.Node:
    """Return the call of the module whose whole result, which nobody could write down, is a feature."""
    index = feature.module_call
    assert index is not None
    module_call = outlined.recording.module_calls[index]
    kind = opaque_in(feature.value)[0].type_name
    if kind == "generator" or outlined.plan.whole_call(outlined.recording, index) != index:
        raise TraceError(
            f"{feature.name!r} holds a {kind}, which cannot be written down as code. Ask for its tensors one by "
            "one, or for nothing inside the module.",
            path=None if kind == "generator" else module_call.path,
            reason=f"it returns a {kind}, which cannot be written down as code",
        )
    return _copy_result(outlined, feature) if module_call.mutated else call_once(outlined, index)


def _copy_result(outlined: OutlinedGraph, feature: Feature) -> fx.Node:
    """Copy all that a whole module returns, which on another input may have another structure."""
    call = call_once(outlined, feature.module_call or 0)
    return add_function(outlined, clone_all, (call,), only_value(meta_of(call), meta_of(call).value))


def _is_whole_result(outlined: OutlinedGraph, feature: Feature) -> bool:
    """Say whether a feature is all that a whole module returns, as a tuple or a dict."""
    index = feature.module_call
    if index is None or feature.steps or outlined.plan.whole_call(outlined.recording, index) != index:
        return False
    result = outlined.recording.module_calls[index].result
    return feature.value is result and not isinstance(result, fx.Node)


def _is_overwritten(outlined: OutlinedGraph, feature: Feature) -> bool:
    if outlined.recording.module_calls[feature.module_call or 0].mutated:
        return True
    memory = frozenset[Any]().union(*(meta_of(node).aliases for node in nodes_in(feature.value)))
    return any(meta_of(node).writes & memory for node in outlined.recording.nodes[feature.produced_at :])
