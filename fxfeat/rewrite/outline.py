"""Keep whole every module that need not be opened: one call of the original submodule.

A module is opened only if a feature lies strictly inside it, or a value needed outside it cannot be reached through
what it returned, or its arguments cannot be written down.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

from torch import fx

from fxfeat.errors import TraceError
from fxfeat.record.guards import check
from fxfeat.record.graph_writer import ESCAPED
from fxfeat.record.recording import Build, Facts, Guard, Opaque, Recording, Span, ancestors, facts
from fxfeat.record.structure import Steps
from fxfeat.record.written import map_nodes, nodes_in, opaque_in
from fxfeat.rewrite.dependencies import find_needed
from fxfeat.rewrite.draft import Draft, last_moment
from fxfeat.select.features import Feature

_PICKS = (operator.getitem, getattr)


def outline(draft: Draft) -> Draft:
    """Rewrite the recorded graph so that modules which need not be opened are one call each.

    Source: the code an expert writes by hand, ``x = self.layer1(x)``.
    """
    plan = plan_openings(draft)
    return _Copy(draft, plan).run()


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which spans are opened, and what the features need of the recording."""

    opened: frozenset[int]
    needed: frozenset[fx.Node]
    features: tuple[Feature, ...]
    guards: tuple[Guard, ...]

    def region(self, recording: Recording, span: int) -> int | None:
        """Return the outermost span around ``span`` (or itself) that stays whole, if any."""
        chain = [span, *ancestors(recording.spans, span)]
        return next((index for index in reversed(chain) if index not in self.opened), None)


# -- what to open -------------------------------------------------------------------------------------------------------


def plan_openings(draft: Draft) -> Plan:
    """Open modules until everything needed can be reached."""
    recording = draft.recording
    opened = {0}
    if draft.flatten:
        opened |= {span.index for span in recording.spans if not span.leaf}
    features = []
    for feature in draft.features:
        moved, inside = _enter(recording, feature)
        features.append(moved)
        opened |= inside
    while True:
        plan = _plan(draft, frozenset(opened), tuple(features))
        more = _unreachable(recording, plan)
        if not more:
            return plan
        opened |= more


def _plan(draft: Draft, opened: frozenset[int], features: tuple[Feature, ...]) -> Plan:
    recording = draft.recording
    plan = Plan(opened, frozenset(), features, ())
    kept = [guard for guard in recording.guards if _is_kept(recording, plan, guard)]
    nodes = list(recording.graph.nodes)
    also = {guard.node for guard in kept}
    while True:
        needed = find_needed(recording, nodes, features, also)
        plan = Plan(opened, frozenset(needed), features, tuple(kept))
        # A call passes on arguments that nothing inside may use; those have to be computed all the same.
        passed = {node for region in _regions(recording, plan) for node in _arguments(recording.spans[region])}
        if passed <= needed:
            return plan
        also |= passed


def _arguments(span: Span) -> list[fx.Node]:
    return nodes_in((span.args, span.kwargs))


def _is_kept(recording: Recording, plan: Plan, guard: Guard) -> bool:
    return guard.position < last_moment(plan.features) and plan.region(recording, guard.span) is None


def _enter(recording: Recording, feature: Feature) -> tuple[Feature, set[int]]:
    """Find the outermost module that hands each part of a feature out; everything around it is opened."""
    inside: set[int] = set()
    moment = feature.moment
    for node in nodes_in(feature.value):
        giver = _giver(recording, feature, node)
        around = ancestors(recording.spans, facts(node).span)
        chain = [facts(node).span, *around]
        inside |= set(chain if giver is None else ancestors(recording.spans, giver))
        moment = moment if giver is None else max(moment, recording.spans[giver].stop)
    if feature.span is not None:
        inside |= set(ancestors(recording.spans, feature.span)) if not nodes_in(feature.value) else set()
    return dataclasses.replace(feature, moment=moment), inside


def _giver(recording: Recording, feature: Feature, node: fx.Node) -> int | None:
    """Return the outermost span that returns ``node`` as the feature wants it, by straight-line code."""
    chain = [facts(node).span, *ancestors(recording.spans, facts(node).span)]
    if feature.span is not None and feature.span in chain:
        chain = chain[chain.index(feature.span) :]
    giver: int | None = None
    for index in chain[:-1]:
        span = recording.spans[index]
        straight = not any(guard.span == index for guard in recording.guards)
        if not _hands_out(recording, span, node, feature.moment) or not (straight or index == feature.span):
            break
        giver = index
    return giver


def _hands_out(recording: Recording, span: Span, node: fx.Node, moment: int) -> bool:
    if all(held is not node for _, held in span.leaves):
        return False
    memory = facts(node).storages
    between = (held for held in recording.graph.nodes if moment <= facts(held).position < span.stop)
    return not any(facts(held).writes & memory for held in between)


def _unreachable(recording: Recording, plan: Plan) -> set[int]:
    """List the whole spans that must be opened after all."""
    more: set[int] = set()
    for node, home in _uses(recording, plan):
        region = plan.region(recording, facts(node).span)
        if region is not None and region != home and not _reaches(recording, plan, node, region):
            more.add(region)
    for region in _regions(recording, plan):
        if not _arguments_written(recording, plan, recording.spans[region]):
            more.add(region)
    return more


def _uses(recording: Recording, plan: Plan) -> list[tuple[fx.Node, int | None]]:
    """List each use of a node with the whole span it is used in, or None for open code."""
    uses: list[tuple[fx.Node, int | None]] = []
    for node in plan.needed:
        home = plan.region(recording, facts(node).span)
        uses += [(source, home) for source in node.all_input_nodes]
    uses += [(guard.node, None) for guard in plan.guards]
    uses += [(node, None) for feature in plan.features for node in nodes_in(feature.value)]
    for region in _regions(recording, plan):
        uses += [(node, None) for node in _arguments(recording.spans[region])]
    return uses


def _regions(recording: Recording, plan: Plan) -> set[int]:
    regions = {plan.region(recording, facts(node).span) for node in plan.needed}
    regions |= {plan.region(recording, feature.span) for feature in plan.features if feature.span is not None}
    return {region for region in regions if region is not None}


def _reaches(recording: Recording, plan: Plan, node: fx.Node, region: int) -> bool:
    if any(held is node for _, held in recording.spans[region].leaves) or node.op == "get_attr":
        return True
    before = facts(node).same_as
    if before is not None and plan.region(recording, facts(before).span) != region:
        return True
    if before is not None:
        return _reaches(recording, plan, before, region)
    return _is_movable(node) and all(
        plan.region(recording, facts(source).span) != region or _reaches(recording, plan, source, region)
        for source in node.all_input_nodes
    )


def _is_movable(node: fx.Node) -> bool:
    """Say whether a node can be computed again elsewhere: a pick from a tuple, or arithmetic on sizes."""
    if node.op == "placeholder":
        return False
    if node.target in _PICKS:
        return True
    return not facts(node).storages and getattr(node.target, "__module__", None) == "_operator" or node.target == "size"


def _arguments_written(recording: Recording, plan: Plan, span: Span) -> bool:
    return all(_is_whole(recording, plan, held) for held in opaque_in((span.args, span.kwargs)))


def _is_whole(recording: Recording, plan: Plan, held: Opaque) -> bool:
    return held.span is not None and plan.region(recording, held.span) == held.span


# -- the new graph ------------------------------------------------------------------------------------------------------


class _Copy:
    """Copies the needed nodes, each whole span as one call."""

    def __init__(self, draft: Draft, plan: Plan) -> None:
        self.draft, self.plan, self.recording = draft, plan, draft.recording
        self.graph = fx.Graph()
        self.made: dict[fx.Node, fx.Node] = {}
        self.calls: dict[int, fx.Node] = {}
        self.regions = _regions(self.recording, plan)
        self.wanted = {node for node, _ in _uses(self.recording, plan)}
        self.guards = sorted(plan.guards, key=lambda guard: guard.position)
        self.features: dict[int, Feature] = {}

    def run(self) -> Draft:
        for node in self.recording.graph.nodes:
            self._write_guards(facts(node).position)
            region = self.plan.region(self.recording, facts(node).span)
            if region is None and (node in self.plan.needed or node.op == "placeholder"):
                self._copy(node)
            elif region in self.regions and region not in self.calls:
                self._call(self.recording.spans[region])
            self._write_features(facts(node).position + 1)
        last = facts(node).position + 1
        self._write_guards(last)
        for region in sorted(self.regions - set(self.calls)):
            self._call(self.recording.spans[region])
        self._write_features(last + 1)
        opened = {self.recording.spans[index].path for index in self.plan.opened} - {""}
        features = tuple(self.features[index] for index in range(len(self.plan.features)))
        return dataclasses.replace(self.draft, graph=self.graph, features=features, opened=tuple(sorted(opened)))

    def _add(self, op: str, target: Any, args: Any, kwargs: Any, known: Facts, name: str | None = None) -> fx.Node:
        args, kwargs = self._built(args, known), self._built(kwargs, known)
        node = self.graph.create_node(op, target, args, kwargs, name=name)
        node.meta["facts"] = known
        return node

    def _built(self, value: Any, known: Facts) -> Any:
        """Turn what is to be built again into calls that build it."""
        if isinstance(value, Build):
            fields = {name: self._built(held, known) for name, held in value.fields}
            return self._add("call_function", value.factory, (), fields, _only_value(known, None))
        if isinstance(value, (tuple, list)):
            return type(value)(self._built(held, known) for held in value)
        if isinstance(value, dict):
            return {key: self._built(held, known) for key, held in value.items()}
        return value

    def _copy(self, node: fx.Node) -> None:
        if facts(node).unwritable:
            raise TraceError(self._explain_unwritable(node))
        if facts(node).passed:
            self.made[node] = self._use(node.all_input_nodes[0])
            return
        args, kwargs = map_nodes(node.args, self._use), map_nodes(node.kwargs, self._use)
        self.made[node] = self._add(node.op, node.target, args, kwargs, self._moved(facts(node)), node.name)

    def _moved(self, known: Facts) -> Facts:
        return dataclasses.replace(known, same_as=None)

    def _call(self, span: Span) -> None:
        """Write one call of a whole module, and pick what is needed from what it returns."""
        inside = self._nodes_of(span)
        known = _summed(span, [facts(node) for node in inside])
        args, kwargs = self._argument(span.args), self._argument(span.kwargs)
        call = self._add("call_module", span.path, args, kwargs, known)
        self.calls[span.index] = call
        for steps, node in span.leaves:
            if node in self.wanted and self.plan.region(self.recording, facts(node).span) == span.index:
                self.made.setdefault(node, self._follow(call, steps, facts(node)))

    def _nodes_of(self, span: Span) -> list[fx.Node]:
        return [node for node in self.recording.graph.nodes if span.start <= facts(node).position < span.stop]

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Opaque):
            assert value.span is not None
            source = self.calls[value.span]
            return self._follow(source, value.steps, _only_value(facts(source), None))
        if isinstance(value, Build):
            return Build(value.factory, tuple((name, self._argument(held)) for name, held in value.fields))
        if isinstance(value, (tuple, list)):
            return type(value)(self._argument(held) for held in value)
        if isinstance(value, dict):
            return {key: self._argument(held) for key, held in value.items()}
        return map_nodes(value, self._use)

    def _follow(self, node: fx.Node, steps: Steps, known: Facts) -> fx.Node:
        for kind, step in steps:
            function = operator.getitem if kind == "item" else getattr
            after = _only_value(known, known.value, known.storages)
            after = dataclasses.replace(after, position=facts(node).position)
            node = self._add("call_function", function, (node, step), {}, after)
        return node

    def _use(self, node: fx.Node) -> fx.Node:
        """Return the new node for an old one."""
        if node in self.made:
            return self.made[node]
        before = facts(node).same_as
        if before is not None:
            return self._use(before)
        if node.op == "get_attr" or _is_movable(node):
            self._copy(node)
            return self.made[node]
        raise TraceError(f"{node.format_node()} is needed but was not written; please report this model.")

    # -- guards and features ----------------------------------------------------------------------------------------

    def _write_guards(self, position: int) -> None:
        while self.guards and self.guards[0].position <= position:
            self._write_guard(self.guards.pop(0))

    def _write_guard(self, guard: Guard) -> None:
        place = f"{guard.where}: `{guard.source}`"
        if guard.expected is ESCAPED:
            raise TraceError(
                f"A value leaves torch at {place}, so what follows from it cannot be written down. "
                "Ask for features outside this module: then it is called whole."
            )
        if guard.node.op == "get_attr":
            return
        known = _only_value(facts(guard.node), None)
        args = (self._use(guard.node), guard.expected, place)
        self._add("call_function", check, args, {}, dataclasses.replace(known, position=guard.position))

    def _write_features(self, position: int) -> None:
        for index, feature in enumerate(self.plan.features):
            if index not in self.features and feature.moment <= position:
                self.features[index] = self._feature(feature)

    def _feature(self, feature: Feature) -> Feature:
        if opaque_in(feature.value):
            assert feature.span is not None
            value: Any = self.calls[feature.span]
        else:
            value = self._built(map_nodes(feature.value, self._use), Facts(feature.moment - 1, 0))
        if feature.steps:
            value = self._follow(value, feature.steps, _picked(facts(value), feature.steps))
        return dataclasses.replace(feature, value=value, steps=())

    def _explain_unwritable(self, node: fx.Node) -> str:
        path = self.recording.spans[facts(node).span].path or type(self.recording.root).__name__
        return (
            f"In {path!r}, {node.target!s} uses {facts(node).unwritable}, which cannot be written down as code. "
            "Ask for features outside this module: then it is called whole."
        )


def _only_value(known: Facts, value: Any, storages: frozenset[Any] = frozenset()) -> Facts:
    return Facts(known.position, known.span, value, storages=storages, contexts=known.contexts)


def _picked(known: Facts, steps: Steps) -> Facts:
    value = known.value
    for _, step in steps:
        value = value[step]
    return dataclasses.replace(known, value=value, reads=frozenset(), writes=frozenset(), draws=False)


def _summed(span: Span, inside: list[Facts]) -> Facts:
    """Add up what the nodes of a span read, wrote and drew."""
    nothing: frozenset[Any] = frozenset()
    leaves = [facts(node) for _, node in span.leaves]
    result = facts(span.result) if isinstance(span.result, fx.Node) else None
    return Facts(
        position=span.start,
        span=span.index,
        value=result.value if result else tuple(known.value for known in leaves),
        reads=nothing.union(*(known.reads | known.storages for known in inside)),
        writes=nothing.union(*(known.writes for known in inside)),
        storages=nothing.union(*(known.storages for known in leaves)),
        draws=any(known.draws for known in inside),
        contexts=span.contexts,
    )


