"""List the attributes of modules that opened code goes by."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from fxfeat.ir.feature import Feature
from fxfeat.ir.guard import IN_PLACE, PRE_HOOKS, Reading
from fxfeat.ir.module_call import ancestors
from fxfeat.ir.node_meta import Storage, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import nodes_in
from fxfeat.opening.plan import Plan, arguments_of, happens_in_time, whole_calls_of

_AROUND = ("forward", PRE_HOOKS, "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
"""What every call of a module goes by."""


def list_readings(recording: Recording, plan: Plan) -> frozenset[Reading]:
    """List what opened code read of modules before all that is needed was done, and what runs around it.

    What would have whole modules write to a feature that they are given is listed as well, and what modules go by that
    return a feature of what is inside them.
    """
    handing_out = _list_handing_out(recording, plan)
    inside = (
        read.reading
        for read in recording.attribute_reads
        if read.module_call in handing_out
        or (plan.whole_call(recording, read.module_call) is None and happens_in_time(recording, plan, read))
    )
    paths = {recording.module_calls[index].path for index in plan.opened | handing_out}
    return frozenset(
        {*inside, *(Reading(path, name) for path in paths for name in _AROUND), *_list_writing(recording, plan)}
    )


def _list_handing_out(recording: Recording, plan: Plan) -> frozenset[int]:
    """List whole calls, and those inside, whose results are taken for features of what their own code calls last.

    They stay so only as long as that code does nothing more.
    """
    features = [feature for feature in plan.features if feature.tap is None and feature.given_to is None]
    return frozenset(index for feature in features for index in _around_inner(recording, plan, feature))


def _around_inner(recording: Recording, plan: Plan, feature: Feature) -> Iterator[int]:
    calls = recording.module_calls
    homes = {meta_of(node).module_call for node in nodes_in(feature.value)}
    for start in homes if feature.module_call is None else (feature.module_call,):
        whole = plan.whole_call(recording, start)
        is_whole_itself = start == feature.module_call or calls[start].leaf
        chain = [*([] if is_whole_itself else [start]), *ancestors(calls, start)]
        yield from chain[: chain.index(whole) + 1] if whole in chain else ()


def _list_writing(recording: Recording, plan: Plan) -> Iterator[Reading]:
    """Yield what keeps whole modules from writing to the features that they are given."""
    paths: set[str] = set()
    for index in whole_calls_of(recording, plan):
        call = recording.module_calls[index]
        earlier = [part.value for part in plan.features if part.tap is None and part.produced_at <= call.start]
        if not _memory_of(nodes_in(earlier)).isdisjoint(_memory_of(arguments_of(call))):
            paths.add(call.path)
    for path in paths:
        for inner, module in recording.root.get_submodule(path).named_modules(prefix=path):
            if vars(module).get(IN_PLACE) is False:
                yield Reading(inner, IN_PLACE)
            if not vars(module)[PRE_HOOKS]:
                yield Reading(inner, PRE_HOOKS)


def _memory_of(nodes: list[fx.Node]) -> frozenset[Storage]:
    return frozenset[Storage]().union(*(meta_of(node).aliases for node in nodes))
