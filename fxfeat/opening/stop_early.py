"""Whether a tapped call can be stopped behind the last value that is copied out of it."""

from __future__ import annotations

from torch import fx

from fxfeat.ir.module_call import ModuleCall
from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.recording import Recording
from fxfeat.opening.plan import Plan, is_looked_at, uses_of, whole_calls_of


def stops_at(recording: Recording, plan: Plan, call: ModuleCall, end: int) -> bool:
    """Say whether nothing is needed that happens after a position inside a whole call.

    What the rest of the call changes in Python may be read by the next call.
    """
    if recording.acts_on_gradients_after(end):
        return False
    if recording.mutated or _changes_attributes(recording, plan, call, end) or is_looked_at(recording, call, end):
        return False
    others = whole_calls_of(recording, plan) - {call.index}
    if any(recording.module_calls[index].start >= call.start for index in others):
        return False
    if any(guard.position >= call.start for guard in plan.guards):
        return False
    homes = [home for node, home in uses_of(recording, plan) if _lies_in(recording, plan, node, call)]
    if None in homes or any(feature.whole is None and feature.produced_at > call.start for feature in plan.features):
        return False
    return all(meta_of(node).position < end for node in plan.needed)


def _changes_attributes(recording: Recording, plan: Plan, call: ModuleCall, end: int) -> bool:
    """Say whether a call changes attributes, of its own modules or after a position."""
    inside = set(recording.modules[call.path].modules())
    if any(recording.modules[path] in inside for path, _ in recording.changed_attributes):
        return True
    late = (write for write in recording.attribute_writes if write.position >= end)
    return any(plan.whole_call(recording, write.module_call) == call.index for write in late)


def _lies_in(recording: Recording, plan: Plan, node: fx.Node, call: ModuleCall) -> bool:
    return plan.whole_call(recording, meta_of(node).module_call) == call.index
