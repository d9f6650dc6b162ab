"""Decide which modules to open.

A module is opened only if a feature lies strictly inside it, or a value needed outside it cannot be reached through
what it returned, or its arguments cannot be written down.
"""

from __future__ import annotations

import dataclasses
import operator

from torch import fx

from fxfeat.errors import TraceError
from fxfeat.record.recording import Guard, Opaque, Recording, Refusal, Setting, Span, Storage, ancestors, facts
from fxfeat.record.written import map_nodes, nodes_in, opaque_in
from fxfeat.rewrite.dependencies import find_needed, memory_of, writers_into
from fxfeat.rewrite.draft import Draft, last_moment
from fxfeat.select.features import Feature

_PICKS = (operator.getitem, getattr)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which spans are opened, and what the features need of the recording, all of it before position ``end``.

    ``restless`` are spans that change what Python holds, by which later ones may go.
    """

    opened: frozenset[int]
    needed: frozenset[fx.Node]
    features: tuple[Feature, ...]
    guards: tuple[Guard, ...]
    end: int
    restless: frozenset[int] = frozenset()

    def region(self, recording: Recording, span: int) -> int | None:
        """Return the outermost span around ``span`` (or itself) that stays whole, if any."""
        chain = [span, *ancestors(recording.spans, span)]
        return next((index for index in reversed(chain) if index not in self.opened), None)


def plan_openings(draft: Draft) -> Plan:
    """Open modules until everything needed can be reached."""
    recording = draft.recording
    # A model that calls itself is opened at each depth: its extractor has another forward.
    opened = {span.index for span in recording.spans if not span.path}
    if draft.flatten:
        opened |= {span.index for span in recording.spans if not span.leaf}
    features = []
    for feature in draft.features:
        moved, inside = _enter(recording, feature)
        features.append(moved)
        opened |= inside
    while True:
        plan = _plan(draft, frozenset(opened), tuple(features))
        more = _unreachable(recording, plan) | _updating(recording, plan)
        more |= find_handed_on(recording, plan) if draft.wary else set()
        if not more:
            _refuse(recording, plan)
            return plan
        opened |= more


def _plan(draft: Draft, opened: frozenset[int], features: tuple[Feature, ...]) -> Plan:
    recording = draft.recording
    restless = frozenset(held.span for held in recording.settings)
    if draft.wary and (recording.altered or recording.changed):
        restless = frozenset(span.index for span in recording.spans)
    plan = Plan(opened, frozenset(), features, (), last_moment(features), restless)
    nodes = list(recording.graph.nodes)
    passed: set[fx.Node] = set()
    while True:
        kept = [guard for guard in recording.guards if _is_kept(recording, plan, guard)]
        looking = {node for node in _lookers(recording, plan) if facts(node).position < plan.end}
        needed = find_needed(recording, nodes, features, passed | looking | {guard.node for guard in kept})
        before, end = plan, max(plan.end, *(facts(node).position + 1 for node in needed), 0)
        plan = Plan(opened, frozenset(needed), features, tuple(kept), end, restless)
        whole = [recording.spans[region] for region in regions_of(recording, plan)]
        # A call passes on arguments that nothing inside may use; those have to be computed all the same. So does what
        # its code only decides on: a random number, a flag.
        passed = {node for span in whole for node in _arguments(span)}
        passed |= writers_into(whole, nodes)
        if passed <= needed and end == before.end:
            return plan


def _lookers(recording: Recording, plan: Plan) -> list[fx.Node]:
    """List the hooks of opened modules that only look on."""
    every: list[fx.Node] = [node for node in recording.graph.nodes if facts(node).look]
    return [node for node in every if plan.region(recording, facts(node).span) is None]


def _refuse(recording: Recording, plan: Plan) -> None:
    """Raise where an opened module does what cannot be written out, or a hook on it would be lost."""
    for refusal in recording.refusals:
        if plan.region(recording, refusal.span) is None and _matters(recording, plan, refusal):
            path = recording.spans[refusal.span].path
            within = "this module: then it is called whole" if path else "what it leads to"
            where = repr(path) if path else type(recording.root).__name__
            raise TraceError(f"In {where}, {refusal.reason}. Ask for features outside {within}.")
    for setting in recording.settings:
        if _matters(recording, plan, setting) and _is_lost(recording, plan, setting):
            raise TraceError(
                f"In {type(recording.root).__name__}, {setting.name!r} of {setting.path!r} is set at {setting.where}, "
                "which written-out code does not do. Ask for features outside the module that sets it: then that is "
                "called whole."
            )
    for node in _lookers(recording, plan):
        look = facts(node).look
        if look and not look.idle and facts(node).position >= plan.end:
            path = recording.spans[facts(node).span].path or "output"
            raise TraceError(
                f"{look.hook[0].upper()}{look.hook[1:]} would not run: it looks at a result that these features do not "
                f"need. Ask for {path!r} as well, or take the hook off while the extractor is made."
            )


def _is_lost(recording: Recording, plan: Plan, setting: Setting) -> bool:
    """Say whether written-out code leaves out a setting that a module called whole goes by."""
    if plan.region(recording, setting.span) is not None:
        return False
    later = (recording.spans[region] for region in regions_of(recording, plan))
    return any(f"{setting.path}.".startswith(f"{held.path}.") for held in later if held.stop > setting.position)


def _arguments(span: Span) -> list[fx.Node]:
    return nodes_in((span.args, span.kwargs))


def _is_kept(recording: Recording, plan: Plan, guard: Guard) -> bool:
    return plan.region(recording, guard.span) is None and _matters(recording, plan, guard)


def _matters(recording: Recording, plan: Plan, held: Guard | Refusal | Setting) -> bool:
    """Say whether something happened before all that is needed was done.

    What a module decides at its very end, with no operation behind it, still decides what it returns.
    """
    if held.position < plan.end:
        return True
    if isinstance(held, Refusal) and any(held.memory & memory_of(node) for node in plan.needed):
        return True
    around = {held.span, *ancestors(recording.spans, held.span)}
    return any(feature.span in around and held.position <= feature.moment for feature in plan.features)


def _enter(recording: Recording, feature: Feature) -> tuple[Feature, set[int]]:
    """Find the outermost module that hands each part of a feature out; everything around it is opened."""
    inside: set[int] = set()
    moment = feature.moment
    feature = _as_given(recording, feature)
    for node in nodes_in(feature.value):
        giver = _giver(recording, feature, node)
        around = ancestors(recording.spans, facts(node).span)
        chain = [facts(node).span, *around]
        inside |= set(chain if giver is None else ancestors(recording.spans, giver))
        moment = moment if giver is None else max(moment, recording.spans[giver].stop)
    if feature.span is not None:
        inside |= set(ancestors(recording.spans, feature.span)) if not nodes_in(feature.value) else set()
    return dataclasses.replace(feature, moment=moment), inside


def _as_given(recording: Recording, feature: Feature) -> Feature:
    """Trace tensors back to before the modules inside wrote to them: ``block(x)`` as a statement, then ``return x``.

    The tensor is the same, and the module does not hand it out.
    """

    def as_given(node: fx.Node) -> fx.Node:
        before, inner = facts(node).same_as, _below(recording, feature.span, facts(node).span)
        if before is None or inner is None or _returns(recording.spans[inner], node):
            return node
        return as_given(before)

    if feature.span is None or all(as_given(node) is node for node in nodes_in(feature.value)):
        return feature
    return dataclasses.replace(feature, value=map_nodes(feature.value, as_given))


def _below(recording: Recording, outer: int | None, span: int) -> int | None:
    """Return the span right inside ``outer`` that is around ``span`` or is it, if there is one."""
    chain = [span, *ancestors(recording.spans, span)]
    return chain[chain.index(outer) - 1] if outer in chain[1:] else None


def _giver(recording: Recording, feature: Feature, node: fx.Node) -> int | None:
    """Return the outermost span that returns ``node`` as the feature wants it, by straight-line code."""
    chain = [facts(node).span, *ancestors(recording.spans, facts(node).span)]
    if feature.span and feature.span in chain:
        chain = chain[chain.index(feature.span) :]
    giver: int | None = None
    deciding = {*(guard.span for guard in recording.guards), *(held.span for held in recording.refusals)}
    for index in chain[:-1]:
        span = recording.spans[index]
        # What the model returns is what its part returned, whatever that part decided.
        straight = index not in deciding or feature.span == 0
        if not span.path or not _hands_out(recording, span, node, feature) or not (straight or index == feature.span):
            break
        giver = index
    return giver


def _hands_out(recording: Recording, span: Span, node: fx.Node, feature: Feature) -> bool:
    """Say whether a module returns a node when no part of the feature has been written over yet."""
    if not _returns(span, node):
        return False
    memory = frozenset[Storage]().union(*(facts(held).storages for held in nodes_in(feature.value)))
    return not any(facts(held).writes & memory for held in recording.nodes[feature.moment : span.stop])


def _returns(span: Span, node: fx.Node) -> bool:
    return span.result is node or any(held is node for _, held in span.leaves)


def _unreachable(recording: Recording, plan: Plan) -> set[int]:
    """List the whole spans that must be opened after all."""
    more: set[int] = set()
    for node, home in uses_of(recording, plan):
        region = plan.region(recording, facts(node).span)
        if region is not None and region != home and not _reaches(recording, plan, node, region):
            more.add(region)
    for region in regions_of(recording, plan):
        if not _arguments_written(recording, plan, recording.spans[region]):
            more.add(region)
    return more


def _updating(recording: Recording, plan: Plan) -> set[int]:
    """List the whole spans that are needed for nothing but an update of state after the last feature.

    Such an update is written out alone: a call of the whole module would need all of its arguments.
    """
    last = last_moment(plan.features)
    late = {plan.region(recording, facts(node).span) for node in plan.needed if facts(node).position >= last}
    return {index for index in late if index is not None and recording.spans[index].start >= last}


def uses_of(recording: Recording, plan: Plan) -> list[tuple[fx.Node, int | None]]:
    """List each use of a node with the whole span it is used in, or None for open code."""
    uses: list[tuple[fx.Node, int | None]] = []
    for node in plan.needed:
        home = plan.region(recording, facts(node).span)
        uses += [(source, home) for source in node.all_input_nodes]
    uses += [(guard.node, None) for guard in plan.guards]
    uses += [(node, None) for feature in plan.features for node in nodes_in(feature.value)]
    for region in regions_of(recording, plan):
        uses += [(node, None) for node in _arguments(recording.spans[region])]
    return uses


def regions_of(recording: Recording, plan: Plan) -> set[int]:
    """List the whole spans that the features need."""
    regions = {plan.region(recording, facts(node).span) for node in plan.needed}
    regions |= {plan.region(recording, feature.span) for feature in plan.features if feature.span is not None}
    regions |= restless_regions(recording, plan)
    found: set[int] = set()
    waiting = [region for region in regions if region is not None]
    while waiting:
        region = waiting.pop()
        if region not in found:
            found.add(region)
            waiting += _givers_of_objects(recording, plan, recording.spans[region])
    return found


def restless_regions(recording: Recording, plan: Plan) -> set[int | None]:
    """List the whole spans before the end that change what Python holds."""
    return {plan.region(recording, index) for index in plan.restless if recording.spans[index].start < plan.end}


def find_handed_on(recording: Recording, plan: Plan) -> set[int]:
    """List the whole spans that use what another module, or opened code, handed on in Python."""
    return {index for index in regions_of(recording, plan) if _takes_unseen(recording, plan, index)}


def _takes_unseen(recording: Recording, plan: Plan, index: int) -> bool:
    span = recording.spans[index]
    given = {_origin(node) for node in _arguments(span)}
    givers = set(_givers_of_objects(recording, plan, span))
    for node in recording.nodes[span.start : span.stop]:
        for source in node.all_input_nodes:
            is_outside = facts(source).position < span.start and source.op != "get_attr"
            if is_outside and _origin(source) not in given and plan.region(recording, facts(source).span) not in givers:
                return True
    return False


def _origin(node: fx.Node) -> fx.Node:
    """Follow a tensor back through modules that returned it as it came."""
    while facts(node).same_as is not None or facts(node).passed:
        node = facts(node).same_as or node.all_input_nodes[0]
    return node


def _givers_of_objects(recording: Recording, plan: Plan, span: Span) -> list[int]:
    """List the whole spans that returned an object which nobody could write down, and which a span is given."""
    sources = [held.span for held in opaque_in((span.args, span.kwargs)) if held.span is not None]
    regions = [plan.region(recording, source) for source in sources]
    return [region for region in regions if region is not None]


def _reaches(recording: Recording, plan: Plan, node: fx.Node, region: int) -> bool:
    if _returns(recording.spans[region], node) or node.op == "get_attr":
        return True
    before = facts(node).same_as
    if before is not None and plan.region(recording, facts(before).span) != region:
        return True
    if before is not None:
        return _reaches(recording, plan, before, region)
    return is_movable(node) and all(
        plan.region(recording, facts(source).span) != region or _reaches(recording, plan, source, region)
        for source in node.all_input_nodes
    )


def is_movable(node: fx.Node) -> bool:
    """Say whether a node can be computed again elsewhere: a pick from a tuple, or arithmetic on sizes."""
    if node.op == "placeholder":
        return False
    if node.target in _PICKS:
        return True
    return (
        not facts(node).storages and getattr(node.target, "__module__", None) == "_operator"
    ) or node.target == "size"


def _arguments_written(recording: Recording, plan: Plan, span: Span) -> bool:
    return all(_is_whole(recording, plan, held) for held in opaque_in((span.args, span.kwargs)))


def _is_whole(recording: Recording, plan: Plan, held: Opaque) -> bool:
    return held.span is not None and plan.region(recording, held.span) == held.span
