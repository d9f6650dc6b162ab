"""Which whole module calls must be opened after all, because what is needed of them cannot be reached from outside."""

from __future__ import annotations

import operator

from torch import fx

from fxfeat.ir.draft import last_produced_at
from fxfeat.ir.module_call import ModuleCall, Opaque, opaque_in
from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.recording import Recording
from fxfeat.opening.features_inside import returns
from fxfeat.opening.plan import Plan, uses_of, whole_calls_of

_PICKS = (operator.getitem, getattr)


def find_unreachable(recording: Recording, plan: Plan) -> set[int]:
    """List the whole module calls that must be opened after all."""
    more: set[int] = set()
    for node, home in uses_of(recording, plan):
        whole_call = plan.whole_call(recording, meta_of(node).module_call)
        if whole_call is not None and whole_call != home and not _reaches(recording, plan, node, whole_call):
            more.add(whole_call)
    for whole_call in whole_calls_of(recording, plan):
        if not _can_write_arguments(recording, plan, recording.module_calls[whole_call]):
            more.add(whole_call)
    return more


def find_updating(recording: Recording, plan: Plan) -> set[int]:
    """List the whole module calls that are needed for nothing but an update of state after the last feature.

    Such an update is written out alone: a call of the whole module would need all of its arguments.
    """
    last = last_produced_at(plan.features)
    late = {
        plan.whole_call(recording, meta_of(node).module_call) for node in plan.needed if meta_of(node).position >= last
    }
    return {index for index in late if index is not None and recording.module_calls[index].start >= last}


def find_replacing(recording: Recording, plan: Plan) -> set[int]:
    """List the whole module calls inside which a value is replaced: only opened code can do that."""
    homes = {plan.whole_call(recording, meta_of(replaced.call).module_call) for replaced in recording.replaced}
    return {home for home in homes if home is not None} & whole_calls_of(recording, plan)


def is_movable(node: fx.Node) -> bool:
    """Say whether a node can be computed again elsewhere: a pick from a tuple, or arithmetic on sizes."""
    if node.op == "placeholder":
        return False
    if node.target in _PICKS or node.target == "size":
        return True
    return not meta_of(node).aliases and getattr(node.target, "__module__", None) == "_operator"


def _reaches(recording: Recording, plan: Plan, node: fx.Node, whole_call: int) -> bool:
    """Say whether a node inside a whole call can be had from what the call returns, or without the call."""
    if returns(recording.module_calls[whole_call], node) or node.op == "get_attr":
        return True
    before = meta_of(node).same_as
    if before is not None:
        return _comes_without(recording, plan, before, whole_call)
    return is_movable(node) and all(
        _comes_without(recording, plan, source, whole_call) for source in node.all_input_nodes
    )


def _comes_without(recording: Recording, plan: Plan, node: fx.Node, whole_call: int) -> bool:
    """Say whether a node lies outside a whole call, or is reached all the same."""
    home = plan.whole_call(recording, meta_of(node).module_call)
    return home != whole_call or _reaches(recording, plan, node, whole_call)


def _can_write_arguments(recording: Recording, plan: Plan, module_call: ModuleCall) -> bool:
    opaques = opaque_in((module_call.args, module_call.kwargs))
    return all(_comes_from_whole_call(recording, plan, opaque) for opaque in opaques)


def _comes_from_whole_call(recording: Recording, plan: Plan, opaque: Opaque) -> bool:
    index = opaque.module_call
    return index is not None and plan.whole_call(recording, index) == index
