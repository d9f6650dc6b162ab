"""List the attributes of modules that opened code goes by."""

from __future__ import annotations

from fxfeat.ir.guard import Reading
from fxfeat.ir.recording import Recording
from fxfeat.opening.plan import Plan, happens_in_time

_AROUND = ("forward", "_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
"""What every call of a module goes by."""


def list_readings(recording: Recording, plan: Plan) -> frozenset[Reading]:
    """List what opened code read of modules before all that is needed was done, and what runs around it."""
    inside = (
        read.reading
        for read in recording.attribute_reads
        if plan.whole_call(recording, read.module_call) is None and happens_in_time(recording, plan, read)
    )
    paths = {recording.module_calls[index].path for index in plan.opened}
    return frozenset({*inside, *(Reading(path, name) for path in paths for name in _AROUND)})
