"""Write one call of a module that stays whole, and pick what is needed out of it."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

from torch import fx

from fxfeat.ir.feature import Feature
from fxfeat.ir.module_call import ModuleAt, ModuleCall, Opaque
from fxfeat.ir.node_meta import NodeMeta, meta_of
from fxfeat.ir.tap import TappedCall
from fxfeat.ir.tree import map_structure
from fxfeat.opening.seal import measured, modules_used
from fxfeat.opening.stop_early import stops_at
from fxfeat.passes.call_meta import only_value, sum_up
from fxfeat.passes.check_result import check_result
from fxfeat.passes.outlined_graph import OutlinedGraph, add_function, add_node, follow_steps, use_node
from fxfeat.runtime.run_tapped import run_tapped


def call_whole(outlined: OutlinedGraph, index: int) -> None:
    """Write one call of a whole module, and pick what is needed from what it returns."""
    module_call = outlined.recording.module_calls[index]
    inside = outlined.recording.nodes[module_call.start : module_call.stop]
    meta = sum_up(module_call, [meta_of(node) for node in inside])
    meta = dataclasses.replace(meta, mutates_python=index in outlined.mutates_python)
    args, kwargs = _write_arguments(outlined, module_call.args), _write_arguments(outlined, module_call.kwargs)
    tapped = [feature for feature in outlined.plan.features if feature.whole == index]
    if tapped:
        call = _call_tapped(outlined, module_call, tapped, args, kwargs, meta)
    else:
        call = add_node(outlined, "call_module", module_call.path, args, kwargs, meta)
    outlined.calls[index] = call
    check_result(outlined, module_call, call)
    _pick_results(outlined, module_call, call)


def call_once(outlined: OutlinedGraph, index: int) -> fx.Node:
    """Return the call of a whole module, which is written now if it was not before."""
    if index not in outlined.calls:
        call_whole(outlined, index)
    return outlined.calls[index]


def _pick_results(outlined: OutlinedGraph, module_call: ModuleCall, call: fx.Node) -> None:
    if isinstance(module_call.result, fx.Node):
        outlined.copies.setdefault(module_call.result, call)
    for steps, node in module_call.result_nodes:
        if node in outlined.used_nodes and outlined.home_of(node) == module_call.index:
            outlined.copies.setdefault(node, follow_steps(outlined, call, steps, meta_of(node)))


def _write_arguments(outlined: OutlinedGraph, value: Any) -> Any:
    def write_part(part: Any) -> Any:
        if isinstance(part, Opaque):
            assert part.module_call is not None
            source = outlined.calls[part.module_call]
            return follow_steps(outlined, source, part.steps, only_value(meta_of(source), None))
        if isinstance(part, ModuleAt):
            return add_node(outlined, "get_attr", part.path, (), {}, NodeMeta(0, 0))
        return use_node(outlined, part) if isinstance(part, fx.Node) else part

    return map_structure(value, write_part)


def _call_tapped(
    outlined: OutlinedGraph, module_call: ModuleCall, features: list[Feature], args: Any, kwargs: Any, meta: NodeMeta
) -> fx.Node:
    """Write one call of a module that stays whole, and pick what is copied out of it; return its own result."""
    tapped_call = _describe_tapped_call(outlined, module_call, features)
    outlined.tapped_calls[module_call.index] = tapped_call
    owner = add_node(outlined, "get_attr", "", (), {}, NodeMeta(module_call.start, 0, container=True))
    values = {feature.name: measured(feature) for feature in features}
    both = dataclasses.replace(meta, value=(meta.value, values))
    call = add_node(outlined, "call_function", run_tapped, (owner, tapped_call.key, *args), kwargs, both)
    result = add_function(outlined, operator.getitem, (call, 0), only_value(meta, meta.value, meta.aliases))
    copied = add_function(outlined, operator.getitem, (call, 1), only_value(meta, values))
    for name, value in values.items():
        outlined.taps[name] = add_function(outlined, operator.getitem, (copied, name), only_value(meta, value))
    return result


def _describe_tapped_call(outlined: OutlinedGraph, module_call: ModuleCall, features: list[Feature]) -> TappedCall:
    path, reason = outlined.plan.sealed.reasons[module_call.index]
    taps = tuple(dict.fromkeys(feature.tap for feature in features if feature.tap is not None))
    end = max(feature.produced_at for feature in features)
    may_stop = outlined.may_stop and all(tap.call is not None for tap in taps)
    stops = may_stop and stops_at(outlined.recording, outlined.plan, module_call, end)
    used = modules_used(outlined.recording, module_call.index, end if stops else module_call.stop)
    earlier = sum(call.path == path for call in outlined.tapped_calls.values())
    key = f"{path}@{earlier}" if earlier else path
    return TappedCall(key, path, reason, taps, stops, used)
