"""Which whole module calls decide on what they return besides tensors, by which opened code may go."""

from __future__ import annotations

import inspect
from typing import Any

from torch import fx

from fxfeat.ir.module_call import ModuleCall, ancestors
from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import leaves_of
from fxfeat.opening.left_behind import may_leave_behind
from fxfeat.opening.plan import Plan
from fxfeat.opening.returned_kinds import kinds_returned


def find_deciding(recording: Recording, plan: Plan) -> set[int]:
    """List the whole calls, made by opened code, that return anything but tensors of their own choice.

    They are opened, so that what they decided by is checked. So are those whose code leaves something behind, now or on
    other inputs.
    """
    deciding, checked = _deciding_calls(recording), frozenset(guard.node for guard in recording.guards)
    calls = [call for call in recording.module_calls if call.start < plan.end]
    whole = [call for call in calls if plan.whole_call(recording, call.index) == call.index]
    return {
        call.index
        for call in whole
        if may_leave_behind(recording, call)
        or (call.index in deciding and _may_return_plain_values(recording, plan, call, checked))
    }


def _deciding_calls(recording: Recording) -> set[int]:
    """List the calls in which anything was decided on a size or a value, or was done that cannot be written out."""
    owners = {guard.module_call for guard in recording.guards if not guard.asserts}
    owners |= {unsupported.module_call for unsupported in recording.unsupported}
    return owners | {outer for owner in owners for outer in ancestors(recording.module_calls, owner)}


def _may_return_plain_values(recording: Recording, plan: Plan, call: ModuleCall, checked: frozenset[fx.Node]) -> bool:
    if call.result is None or call.leaves_behind:
        return True
    if isinstance(call.result, (dict, list)) and _is_looked_into(recording, plan, call):
        return True
    forward = inspect.getattr_static(recording.modules[call.path], "forward", None)
    if ("None", None) in kinds_returned(forward):
        return True
    parts: list[Any] = leaves_of(call.result)
    return any(part in checked if isinstance(part, fx.Node) else part is not None for part in parts)


def _is_looked_into(recording: Recording, plan: Plan, call: ModuleCall) -> bool:
    """Say whether anything outside a call takes what its result holds, and so may go by the keys."""
    returned = {node for _, node in call.result_nodes}
    outside = (node for node in plan.needed if plan.whole_call(recording, meta_of(node).module_call) != call.index)
    return any(not returned.isdisjoint(node.all_input_nodes) for node in outside)
