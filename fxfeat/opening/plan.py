"""Decide which modules to open.

A module is opened only if a feature lies strictly inside it, or a value needed outside it cannot be reached through
what it returned, or its arguments cannot be written down.
"""

from __future__ import annotations

import dataclasses
import operator

from torch import fx

from fxfeat.analysis.dependencies import find_needed, memory_of, writers_into
from fxfeat.errors import TraceError
from fxfeat.ir.draft import Draft, last_produced_at
from fxfeat.ir.feature import Feature
from fxfeat.ir.guard import (
    AttributeWrite,
    Guard,
    Unsupported,
)
from fxfeat.ir.module_call import (
    ModuleCall,
    Opaque,
    ancestors,
    opaque_in,
)
from fxfeat.ir.node_meta import (
    Storage,
    meta_of,
)
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import map_nodes, nodes_in
from fxfeat.opening.seal import Sealed, seal, tap_inside

_PICKS = (operator.getitem, getattr)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which module calls are opened, and what the features need of the recording, all of it before position ``end``.

    ``mutates_python`` are the module calls that change what Python holds, by which later ones may go.
    """

    opened: frozenset[int]
    needed: frozenset[fx.Node]
    features: tuple[Feature, ...]
    guards: tuple[Guard, ...]
    end: int
    mutates_python: frozenset[int] = frozenset()
    sealed: Sealed = dataclasses.field(default_factory=Sealed)

    def whole_call(self, recording: Recording, module_call: int) -> int | None:
        """Return the outermost module call around ``module_call`` (or itself) that stays whole, if any."""
        chain = [module_call, *ancestors(recording.module_calls, module_call)]
        return next((index for index in reversed(chain) if index not in self.opened), None)


def plan_openings(draft: Draft) -> Plan:
    """Open modules until everything needed can be reached."""
    recording = draft.recording
    # A model that calls itself is opened at each depth: its extractor has another forward.
    opened = {call.index for call in recording.module_calls if not call.path}
    if draft.flatten:
        opened |= {call.index for call in recording.module_calls if not call.leaf}
    sealed = seal(recording, dict(draft.tapped))
    opened = {index for index in opened if sealed.around(recording, index) is None}
    features = []
    for feature in draft.features:
        moved, inside = _enter(recording, feature)
        if any(sealed.around(recording, index) is not None for index in inside):
            moved = tap_inside(recording, sealed, feature)
            assert moved.whole is not None
            inside = set(ancestors(recording.module_calls, moved.whole))
        features.append(moved)
        opened |= inside
    while True:
        plan = _plan(draft, frozenset(opened), tuple(features), sealed)
        more = _unreachable(recording, plan) | _updating(recording, plan)
        more |= find_implicit_inputs(recording, plan) if draft.opens_implicit_inputs else set()
        if not more:
            _refuse(recording, plan)
            return plan
        shut = [index for index in more if sealed.around(recording, index) is not None]
        if shut:
            raise sealed.refuse(sealed.around(recording, shut[0]) or 0)
        opened |= more


def _plan(draft: Draft, opened: frozenset[int], features: tuple[Feature, ...], sealed: Sealed) -> Plan:
    recording = draft.recording
    mutates_python = frozenset(write.module_call for write in recording.attribute_writes)
    if draft.opens_implicit_inputs and (recording.mutated or recording.changed_attributes):
        mutates_python = frozenset(call.index for call in recording.module_calls)
    plan = Plan(opened, frozenset(), features, (), last_produced_at(features), mutates_python, sealed)
    nodes = list(recording.graph.nodes)
    passed: set[fx.Node] = set()
    while True:
        guards = [guard for guard in recording.guards if _is_kept(recording, plan, guard)]
        looking = {node for node in _lookers(recording, plan) if meta_of(node).position < plan.end}
        needed = find_needed(recording, nodes, features, passed | looking | {guard.node for guard in guards})
        before, end = plan, max(plan.end, *(meta_of(node).position + 1 for node in needed), 0)
        plan = Plan(opened, frozenset(needed), features, tuple(guards), end, mutates_python, sealed)
        whole = [recording.module_calls[whole_call] for whole_call in whole_calls_of(recording, plan)]
        # A call passes on arguments that nothing inside may use; those have to be computed all the same. So does what
        # its code only decides on: a random number, a flag.
        passed = {node for call in whole for node in _arguments(call)}
        passed |= writers_into(whole, nodes)
        if passed <= needed and end == before.end:
            return plan


def _lookers(recording: Recording, plan: Plan) -> list[fx.Node]:
    """List the hooks of opened modules that only look on."""
    every: list[fx.Node] = [node for node in recording.graph.nodes if meta_of(node).look]
    return [node for node in every if plan.whole_call(recording, meta_of(node).module_call) is None]


def _refuse(recording: Recording, plan: Plan) -> None:
    """Raise where an opened module does what cannot be written out, or a hook on it would be lost."""
    for refusal in recording.unsupported:
        if plan.whole_call(recording, refusal.module_call) is None and _matters(recording, plan, refusal):
            path = recording.module_calls[refusal.module_call].path
            within = "this module: then it is called whole" if path else "what it leads to"
            where = repr(path) if path else type(recording.root).__name__
            raise TraceError(
                f"In {where}, {refusal.reason}. Ask for features outside {within}.", path=path, reason=refusal.reason
            )
    for setting in recording.attribute_writes:
        if _matters(recording, plan, setting) and _is_lost(recording, plan, setting):
            raise TraceError(
                f"In {type(recording.root).__name__}, {setting.name!r} of {setting.path!r} is set at {setting.where}, "
                "which written-out code does not do. Ask for features outside the module that sets it: then that is "
                "called whole.",
                path=recording.module_calls[setting.module_call].path,
                reason=f"{setting.name!r} of {setting.path!r} is set at {setting.where}",
            )
    for node in _lookers(recording, plan):
        look = meta_of(node).look
        if look and not look.idle and meta_of(node).position >= plan.end:
            path = recording.module_calls[meta_of(node).module_call].path or "output"
            raise TraceError(
                f"{look.hook[0].upper()}{look.hook[1:]} would not run: it looks at a result that these features do not "
                f"need. Ask for {path!r} as well, or take the hook off while the extractor is made.",
                path="" if path == "output" else path,
                reason=f"{look.hook} looks at a result that the features do not need",
            )


def _is_lost(recording: Recording, plan: Plan, setting: AttributeWrite) -> bool:
    """Say whether written-out code leaves out a setting that a module called whole goes by."""
    if plan.whole_call(recording, setting.module_call) is not None:
        return False
    later = (recording.module_calls[whole_call] for whole_call in whole_calls_of(recording, plan))
    return any(f"{setting.path}.".startswith(f"{call.path}.") for call in later if call.stop > setting.position)


def _arguments(module_call: ModuleCall) -> list[fx.Node]:
    return nodes_in((module_call.args, module_call.kwargs))


def _is_kept(recording: Recording, plan: Plan, guard: Guard) -> bool:
    return plan.whole_call(recording, guard.module_call) is None and _matters(recording, plan, guard)


def _matters(recording: Recording, plan: Plan, step: Guard | Unsupported | AttributeWrite) -> bool:
    """Say whether something happened before all that is needed was done.

    What a module decides at its very end, with no operation behind it, still decides what it returns.
    """
    if step.position < plan.end:
        return True
    if isinstance(step, Unsupported) and any(step.memory & memory_of(node) for node in plan.needed):
        return True
    around = {step.module_call, *ancestors(recording.module_calls, step.module_call)}
    return any(feature.module_call in around and step.position <= feature.produced_at for feature in plan.features)


def _enter(recording: Recording, feature: Feature) -> tuple[Feature, set[int]]:
    """Find the outermost module that hands each part of a feature out; everything around it is opened."""
    inside: set[int] = set()
    produced_at = feature.produced_at
    feature = _as_given(recording, feature)
    for node in nodes_in(feature.value):
        returning_call = _returning_call(recording, feature, node)
        around = ancestors(recording.module_calls, meta_of(node).module_call)
        chain = [meta_of(node).module_call, *around]
        inside |= set(chain if returning_call is None else ancestors(recording.module_calls, returning_call))
        produced_at = (
            produced_at if returning_call is None else max(produced_at, recording.module_calls[returning_call].stop)
        )
    if feature.module_call is not None:
        inside |= set(ancestors(recording.module_calls, feature.module_call)) if not nodes_in(feature.value) else set()
    return dataclasses.replace(feature, produced_at=produced_at), inside


def _as_given(recording: Recording, feature: Feature) -> Feature:
    """Trace tensors back to before the modules inside wrote to them: ``block(x)`` as a statement, then ``return x``.

    The tensor is the same, and the module does not hand it out.
    """

    def as_given(node: fx.Node) -> fx.Node:
        before, inner = meta_of(node).same_as, _below(recording, feature.module_call, meta_of(node).module_call)
        if before is None or inner is None or _returns(recording.module_calls[inner], node):
            return node
        return as_given(before)

    if feature.module_call is None or all(as_given(node) is node for node in nodes_in(feature.value)):
        return feature
    return dataclasses.replace(feature, value=map_nodes(feature.value, as_given))


def _below(recording: Recording, outer: int | None, module_call: int) -> int | None:
    """Return the module call right inside ``outer`` that is around ``module_call`` or is it, if there is one."""
    chain = [module_call, *ancestors(recording.module_calls, module_call)]
    return chain[chain.index(outer) - 1] if outer in chain[1:] else None


def _returning_call(recording: Recording, feature: Feature, node: fx.Node) -> int | None:
    """Return the outermost module call that returns ``node`` as the feature wants it, by straight-line code."""
    chain = [meta_of(node).module_call, *ancestors(recording.module_calls, meta_of(node).module_call)]
    if feature.module_call and feature.module_call in chain:
        chain = chain[chain.index(feature.module_call) :]
    returning_call: int | None = None
    deciding = {
        *(guard.module_call for guard in recording.guards),
        *(step.module_call for step in recording.unsupported),
    }
    for index in chain[:-1]:
        module_call = recording.module_calls[index]
        # What the model returns is what its part returned, whatever that part decided.
        straight = index not in deciding or feature.module_call == 0
        if (
            not module_call.path
            or not _hands_out(recording, module_call, node, feature)
            or not (straight or index == feature.module_call)
        ):
            break
        returning_call = index
    return returning_call


def _hands_out(recording: Recording, module_call: ModuleCall, node: fx.Node, feature: Feature) -> bool:
    """Say whether a module returns a node when no part of the feature has been written over yet."""
    if not _returns(module_call, node):
        return False
    memory = frozenset[Storage]().union(*(meta_of(part).aliases for part in nodes_in(feature.value)))
    return not any(meta_of(later).writes & memory for later in recording.nodes[feature.produced_at : module_call.stop])


def _returns(module_call: ModuleCall, node: fx.Node) -> bool:
    return module_call.result is node or any(returned is node for _, returned in module_call.result_nodes)


def _unreachable(recording: Recording, plan: Plan) -> set[int]:
    """List the whole module calls that must be opened after all."""
    more: set[int] = set()
    for node, home in uses_of(recording, plan):
        whole_call = plan.whole_call(recording, meta_of(node).module_call)
        if whole_call is not None and whole_call != home and not _reaches(recording, plan, node, whole_call):
            more.add(whole_call)
    for whole_call in whole_calls_of(recording, plan):
        if not _arguments_written(recording, plan, recording.module_calls[whole_call]):
            more.add(whole_call)
    return more


def _updating(recording: Recording, plan: Plan) -> set[int]:
    """List the whole module calls that are needed for nothing but an update of state after the last feature.

    Such an update is written out alone: a call of the whole module would need all of its arguments.
    """
    last = last_produced_at(plan.features)
    late = {
        plan.whole_call(recording, meta_of(node).module_call) for node in plan.needed if meta_of(node).position >= last
    }
    return {index for index in late if index is not None and recording.module_calls[index].start >= last}


def uses_of(recording: Recording, plan: Plan) -> list[tuple[fx.Node, int | None]]:
    """List each use of a node with the whole module call it is used in, or None for open code."""
    uses: list[tuple[fx.Node, int | None]] = []
    for node in plan.needed:
        home = plan.whole_call(recording, meta_of(node).module_call)
        uses += [(source, home) for source in node.all_input_nodes]
    uses += [(guard.node, None) for guard in plan.guards]
    uses += [(node, None) for feature in plan.features if not feature.tap for node in nodes_in(feature.value)]
    for whole_call in whole_calls_of(recording, plan):
        uses += [(node, None) for node in _arguments(recording.module_calls[whole_call])]
    return uses


def whole_calls_of(recording: Recording, plan: Plan) -> set[int]:
    """List the whole module calls that the features need."""
    whole_calls = {plan.whole_call(recording, meta_of(node).module_call) for node in plan.needed}
    whole_calls |= {
        plan.whole_call(recording, feature.module_call) for feature in plan.features if feature.module_call is not None
    }
    whole_calls |= {feature.whole for feature in plan.features}
    whole_calls |= whole_calls_mutating_python(recording, plan)
    reached: set[int] = set()
    waiting = [whole_call for whole_call in whole_calls if whole_call is not None]
    while waiting:
        whole_call = waiting.pop()
        if whole_call not in reached:
            reached.add(whole_call)
            waiting += _givers_of_objects(recording, plan, recording.module_calls[whole_call])
    return reached


def whole_calls_mutating_python(recording: Recording, plan: Plan) -> set[int | None]:
    """List the whole module calls before the end that change what Python holds."""
    return {
        plan.whole_call(recording, index)
        for index in plan.mutates_python
        if recording.module_calls[index].start < plan.end
    }


def find_implicit_inputs(recording: Recording, plan: Plan) -> set[int]:
    """List the whole module calls that use what another module, or opened code, left behind in Python."""
    return {index for index in whole_calls_of(recording, plan) if _takes_unseen(recording, plan, index)}


def _takes_unseen(recording: Recording, plan: Plan, index: int) -> bool:
    module_call = recording.module_calls[index]
    given = {_origin(node) for node in _arguments(module_call)}
    givers = set(_givers_of_objects(recording, plan, module_call))
    for node in recording.nodes[module_call.start : module_call.stop]:
        for source in node.all_input_nodes:
            is_outside = meta_of(source).position < module_call.start and source.op != "get_attr"
            if (
                is_outside
                and _origin(source) not in given
                and plan.whole_call(recording, meta_of(source).module_call) not in givers
            ):
                return True
    return False


def _origin(node: fx.Node) -> fx.Node:
    """Follow a tensor back through modules that returned it as it came."""
    while meta_of(node).same_as is not None or meta_of(node).passed:
        node = meta_of(node).same_as or node.all_input_nodes[0]
    return node


def _givers_of_objects(recording: Recording, plan: Plan, module_call: ModuleCall) -> list[int]:
    """List the whole calls that returned an object which nobody could write down, and which a call is given."""
    sources = [
        opaque.module_call
        for opaque in opaque_in((module_call.args, module_call.kwargs))
        if opaque.module_call is not None
    ]
    whole_calls = [plan.whole_call(recording, source) for source in sources]
    return [whole_call for whole_call in whole_calls if whole_call is not None]


def _reaches(recording: Recording, plan: Plan, node: fx.Node, whole_call: int) -> bool:
    if _returns(recording.module_calls[whole_call], node) or node.op == "get_attr":
        return True
    before = meta_of(node).same_as
    if before is not None and plan.whole_call(recording, meta_of(before).module_call) != whole_call:
        return True
    if before is not None:
        return _reaches(recording, plan, before, whole_call)
    return is_movable(node) and all(
        plan.whole_call(recording, meta_of(source).module_call) != whole_call
        or _reaches(recording, plan, source, whole_call)
        for source in node.all_input_nodes
    )


def is_movable(node: fx.Node) -> bool:
    """Say whether a node can be computed again elsewhere: a pick from a tuple, or arithmetic on sizes."""
    if node.op == "placeholder":
        return False
    if node.target in _PICKS:
        return True
    return (
        not meta_of(node).aliases and getattr(node.target, "__module__", None) == "_operator"
    ) or node.target == "size"


def _arguments_written(recording: Recording, plan: Plan, module_call: ModuleCall) -> bool:
    return all(_is_whole(recording, plan, opaque) for opaque in opaque_in((module_call.args, module_call.kwargs)))


def _is_whole(recording: Recording, plan: Plan, opaque: Opaque) -> bool:
    return opaque.module_call is not None and plan.whole_call(recording, opaque.module_call) == opaque.module_call


def stops_at(recording: Recording, plan: Plan, call: ModuleCall, end: int) -> bool:
    """Say whether nothing is needed that happens after a position inside a whole call.

    What the rest of the call changes in Python may be read by the next call.
    """
    if recording.mutated or _changes_attributes(recording, plan, call, end) or is_looked_at(recording, call, end):
        return False
    if any(
        recording.module_calls[index].start >= call.start for index in whole_calls_of(recording, plan) - {call.index}
    ):
        return False
    if any(guard.position >= call.start for guard in plan.guards):
        return False
    homes = [home for node, home in uses_of(recording, plan) if _lies_in(recording, plan, node, call)]
    if None in homes or any(feature.whole is None and feature.produced_at > call.start for feature in plan.features):
        return False
    return all(meta_of(node).position < end for node in plan.needed)


def is_looked_at(recording: Recording, call: ModuleCall, end: int) -> bool:
    """Say whether a hook of the user's looks on inside a call, from a position on."""
    return any(meta_of(node).look is not None for node in recording.nodes[max(call.start, end) : call.stop])


def _changes_attributes(recording: Recording, plan: Plan, call: ModuleCall, end: int) -> bool:
    """Say whether a call changes attributes, of its own modules or after a position."""
    inside = set(recording.root.get_submodule(call.path).modules())
    if any(recording.root.get_submodule(path) in inside for path, _ in recording.changed_attributes):
        return True
    late = (write for write in recording.attribute_writes if write.position >= end)
    return any(plan.whole_call(recording, write.module_call) == call.index for write in late)


def _lies_in(recording: Recording, plan: Plan, node: fx.Node, call: ModuleCall) -> bool:
    return plan.whole_call(recording, meta_of(node).module_call) == call.index
