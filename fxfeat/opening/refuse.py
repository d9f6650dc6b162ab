"""Raise where what a plan opens cannot be written out."""

from __future__ import annotations

from fxfeat.analysis.dependencies import memory_of
from fxfeat.errors import TraceError
from fxfeat.ir.guard import AttributeWrite, Unsupported
from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.recording import Recording
from fxfeat.opening.plan import Plan, happens_in_time, is_settled_by_hooks, lookers_of, whole_calls_of


def refuse(recording: Recording, plan: Plan) -> None:
    """Raise where an opened module does what cannot be written out, or a hook on it would be lost."""
    _refuse_unsupported(recording, plan)
    _refuse_lost_writes(recording, plan)
    _refuse_lost_hooks(recording, plan)


def _refuse_unsupported(recording: Recording, plan: Plan) -> None:
    for step in recording.unsupported:
        if plan.whole_call(recording, step.module_call) is None and _reaches_features(recording, plan, step):
            path = recording.module_calls[step.module_call].path
            within = "this module: then it is called whole" if path else "what it leads to"
            where = repr(path) if path else type(recording.root).__name__
            raise TraceError(
                f"In {where}, {step.reason}. Ask for features outside {within}.", path=path, reason=step.reason
            )


def _reaches_features(recording: Recording, plan: Plan, step: Unsupported) -> bool:
    """Say whether a step happened before all that is needed was done, or changed memory that is needed."""
    if is_settled_by_hooks(recording, plan, step):
        return False
    if happens_in_time(recording, plan, step):
        return True
    return any(step.memory & memory_of(node) for node in plan.needed)


def _refuse_lost_writes(recording: Recording, plan: Plan) -> None:
    for write in recording.attribute_writes:
        if happens_in_time(recording, plan, write) and _is_lost(recording, plan, write):
            raise TraceError(
                f"In {type(recording.root).__name__}, {write.name!r} of {write.path!r} is set at {write.where}, "
                "which written-out code does not do. Ask for features outside the module that sets it: then that is "
                "called whole.",
                path=recording.module_calls[write.module_call].path,
                reason=f"{write.name!r} of {write.path!r} is set at {write.where}",
            )


def _is_lost(recording: Recording, plan: Plan, write: AttributeWrite) -> bool:
    """Say whether written-out code leaves out a setting that a module called whole goes by."""
    if plan.whole_call(recording, write.module_call) is not None:
        return False
    whole_calls = (recording.module_calls[whole_call] for whole_call in whole_calls_of(recording, plan))
    later = (call for call in whole_calls if call.stop > write.position)
    return any(f"{write.path}.".startswith(f"{call.path}.") for call in later)


def _refuse_lost_hooks(recording: Recording, plan: Plan) -> None:
    for node in lookers_of(recording, plan):
        look = meta_of(node).look
        if look and not look.idle and meta_of(node).position >= plan.end:
            path = recording.module_calls[meta_of(node).module_call].path or "output"
            raise TraceError(
                f"{look.hook[0].upper()}{look.hook[1:]} would not run: it looks at a result that these features do not "
                f"need. Ask for {path!r} as well, or take the hook off while the extractor is made.",
                path="" if path == "output" else path,
                reason=f"{look.hook} looks at a result that the features do not need",
            )
