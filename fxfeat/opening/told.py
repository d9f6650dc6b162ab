"""Say whether opened code was told anything of the inputs that is no tensor: only then can other sizes change it."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from fxfeat.ir.guard import Answer, Guard
from fxfeat.ir.module_call import ModuleCall, ancestors
from fxfeat.ir.node_meta import RNG, Storage, TensorMeta, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import nodes_in
from fxfeat.opening.plan import Plan, happens_in_time
from fxfeat.opening.sources_of_numbers import have_sources
from fxfeat.trace.leaves import is_of_torch


def is_told(recording: Recording, plan: Plan) -> bool:
    """Say whether opened code may have gone by a size: it was told one, or something that a whole call went by.

    Code that sees nothing but tensors makes the same calls at every size.
    """
    if recording.kind != "meta" or recording.mutated or recording.changed_attributes or recording.attribute_writes:
        return True
    if recording.replaced or recording.holds_iterators or not have_sources(recording, plan):
        return True
    steps: tuple[Answer | Guard, ...] = (*recording.answers, *recording.guards)
    early = [step for step in steps if happens_in_time(recording, plan, step)]
    if any(plan.whole_call(recording, step.module_call) is None for step in early):
        return True
    if not all(_returns_a_tensor(call) for call in _whole_calls(recording, plan)):
        return True
    return _is_memory_told(recording, plan, {step.module_call for step in early})


def is_told_dtypes(recording: Recording, plan: Plan) -> bool:
    """Say whether opened code may have gone by a dtype: it read one, or it called what read one and handed that on.

    A whole call that returns one tensor, over memory of its own, hands nothing on.
    """
    reads = [read for read in recording.dtype_reads if happens_in_time(recording, plan, read)]
    if reads and (recording.mutated or recording.changed_attributes or recording.attribute_writes):
        return True
    if any(plan.whole_call(recording, read.module_call) is None for read in reads):
        return True
    callers = {read.module_call for read in reads}
    around = callers.union(*(ancestors(recording.module_calls, index) for index in callers))
    calls = [call for call in _whole_calls(recording, plan) if call.index in around]
    return not all(map(_returns_a_tensor, calls)) or _is_memory_told(recording, plan, callers)


def _whole_calls(recording: Recording, plan: Plan) -> Iterator[ModuleCall]:
    """Yield the calls that opened code makes of modules other than torch's own, whose results have one form."""
    for call in recording.module_calls:
        is_whole = call.index not in plan.opened and (call.parent is None or call.parent in plan.opened)
        if not is_whole or call.start >= plan.end:
            continue
        if not call.leaf or not is_of_torch(recording.modules[call.path]):
            yield call


def _returns_a_tensor(call: ModuleCall) -> bool:
    return isinstance(call.result, fx.Node) and isinstance(meta_of(call.result).value, TensorMeta)


def _is_memory_told(recording: Recording, plan: Plan, told: set[int]) -> bool:
    """Say whether a whole call that was told something writes to memory from outside it, or returns it.

    At other sizes it may do so or not, and what is cloned goes by that.
    """
    around = told.union(*(ancestors(recording.module_calls, index) for index in told))
    calls = [call for call in _whole_calls(recording, plan) if call.index in around]
    since = _first_seen(recording) if calls else {}
    return any(_hands_memory_on(recording, call, since) for call in calls)


def _first_seen(recording: Recording) -> dict[Storage, int]:
    """Map each memory to the position of the first node that gave a tensor over it."""
    since: dict[Storage, int] = {}
    for node in recording.nodes:
        for storage in meta_of(node).aliases:
            since.setdefault(storage, meta_of(node).position)
    return since


def _hands_memory_on(recording: Recording, call: ModuleCall, since: dict[Storage, int]) -> bool:
    metas = [meta_of(node) for node in recording.nodes[call.start : call.stop]]
    writes = {storage for meta in metas for storage in meta.writes if storage is not RNG}
    returned = {storage for node in nodes_in(call.result) for storage in meta_of(node).aliases}
    return any(since.get(storage, -1) < call.start for storage in writes | returned)
