"""Decide which modules to open.

A module is opened only if a feature lies strictly inside it, or a value needed outside it cannot be reached through
what it returned, or its arguments cannot be written down.
"""

from __future__ import annotations

from torch import fx

from fxfeat.analysis.dependencies import Dependencies, find_needed, map_dependencies, writers_into
from fxfeat.ir.draft import Draft, last_produced_at
from fxfeat.ir.feature import Feature
from fxfeat.ir.guard import Guard
from fxfeat.ir.module_call import ancestors
from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.recording import Recording
from fxfeat.opening.features_inside import calls_of_holders, enter
from fxfeat.opening.plain_results import find_deciding
from fxfeat.opening.plan import (
    Plan,
    arguments_of,
    happens_in_time,
    is_settled_by_hooks,
    lookers_of,
    whole_calls_of,
)
from fxfeat.opening.reach import find_replacing, find_unreachable, find_updating
from fxfeat.opening.refuse import refuse
from fxfeat.opening.seal import Sealed, join_listed, seal, tap_inside
from fxfeat.opening.unseen_inputs import find_implicit_inputs


def plan_openings(draft: Draft) -> Plan:
    """Open modules until everything needed can be reached."""
    recording = draft.recording
    sealed = seal(recording, dict(draft.tapped))
    opened = {index for index in _opened_at_first(draft) if sealed.around(recording, index) is None}
    features: tuple[Feature, ...] = ()
    for feature in join_listed(recording, sealed, draft.features):
        placed, inside = _place(recording, sealed, feature)
        features += (placed,)
        opened |= inside
    dependencies = map_dependencies(recording.graph.nodes)
    while True:
        plan = _plan(draft, frozenset(opened), features, sealed, dependencies)
        more = _opened_after_all(draft, plan)
        if not more:
            refuse(recording, plan)
            return plan
        _check_unsealed(recording, sealed, more)
        opened |= more


def _opened_at_first(draft: Draft) -> set[int]:
    calls = draft.recording.module_calls
    # A model that calls itself is opened at each depth: its extractor has another forward.
    opened = {call.index for call in calls if not call.path}
    return opened | {call.index for call in calls if not call.leaf} if draft.flatten else opened


def _place(recording: Recording, sealed: Sealed, feature: Feature) -> tuple[Feature, set[int]]:
    """Say where a feature is had, and which modules are opened for it: no sealed one, out of which it is copied."""
    moved, inside = enter(recording, feature)
    if feature.tap is not None:
        outside = {index for index in calls_of_holders(recording, feature) if sealed.around(recording, index) is None}
        return feature, outside | set(ancestors(recording.module_calls, feature.whole or 0))
    if all(sealed.around(recording, index) is None for index in inside):
        return moved, inside
    tapped = tap_inside(recording, sealed, feature)
    assert tapped.whole is not None
    return tapped, set(ancestors(recording.module_calls, tapped.whole))


def _opened_after_all(draft: Draft, plan: Plan) -> set[int]:
    more = find_unreachable(draft.recording, plan) | find_updating(draft.recording, plan)
    more |= find_deciding(draft.recording, plan) | find_replacing(draft.recording, plan)
    return more | find_implicit_inputs(draft.recording, plan) if draft.opens_implicit_inputs else more


def _check_unsealed(recording: Recording, sealed: Sealed, indices: set[int]) -> None:
    shut = [index for index in indices if sealed.around(recording, index) is not None]
    if shut:
        raise sealed.refuse(sealed.around(recording, shut[0]) or 0)


def _plan(
    draft: Draft, opened: frozenset[int], features: tuple[Feature, ...], sealed: Sealed, dependencies: Dependencies
) -> Plan:
    """Find what the features need where some modules are opened."""
    recording = draft.recording
    plan = Plan(opened, frozenset(), features, (), last_produced_at(features), _mutating_python(draft), sealed)
    given: set[fx.Node] = set()
    while True:
        grown = _grow(recording, plan, given, dependencies)
        given = _given_to_whole_calls(recording, grown)
        if given <= grown.needed and grown.end == plan.end:
            return grown
        plan = grown


def _mutating_python(draft: Draft) -> frozenset[int]:
    recording = draft.recording
    if draft.opens_implicit_inputs and (recording.mutated or recording.changed_attributes):
        return frozenset(call.index for call in recording.module_calls)
    return frozenset(write.module_call for write in recording.attribute_writes)


def _grow(recording: Recording, plan: Plan, given: set[fx.Node], dependencies: Dependencies) -> Plan:
    """Add to a plan what the features, the guards and hooks before its end, and whole calls need."""
    guards = tuple(guard for guard in recording.guards if _is_kept(recording, plan, guard))
    looking = {node for node in lookers_of(recording, plan) if meta_of(node).position < plan.end}
    roots = given | looking | {guard.node for guard in guards}
    needed = frozenset(find_needed(recording, dependencies, plan.features, roots))
    end = max(plan.end, *(meta_of(node).position + 1 for node in needed), 0)
    return Plan(plan.opened, needed, plan.features, guards, end, plan.mutates_python, plan.sealed)


def _is_kept(recording: Recording, plan: Plan, guard: Guard) -> bool:
    if is_settled_by_hooks(recording, plan, guard):
        return False
    return plan.whole_call(recording, guard.module_call) is None and happens_in_time(recording, plan, guard)


def _given_to_whole_calls(recording: Recording, plan: Plan) -> set[fx.Node]:
    """List the nodes that whole calls take: as arguments that nothing inside may use, or by memory written before.

    A call passes on its arguments, so they have to be computed all the same. So does what its code only decides on: a
    random number, a flag.
    """
    whole = [recording.module_calls[whole_call] for whole_call in whole_calls_of(recording, plan)]
    given = {node for call in whole for node in arguments_of(call)}
    return given | writers_into(whole, list(recording.graph.nodes))
