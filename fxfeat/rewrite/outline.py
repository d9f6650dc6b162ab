"""Keep whole every module that need not be opened: one call of the original submodule."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

from torch import fx

from fxfeat.errors import TraceError
from fxfeat.record.guards import check
from fxfeat.record.recording import Build, Facts, Guard, ModuleAt, Opaque, Span, facts
from fxfeat.record.structure import Steps, clone_all
from fxfeat.record.written import map_nodes, nodes_in, opaque_in
from fxfeat.rewrite.draft import Draft
from fxfeat.rewrite.openings import (
    Plan,
    find_handed_on,
    is_movable,
    plan_openings,
    regions_of,
    restless_regions,
    uses_of,
)
from fxfeat.select.features import Feature


def outline(draft: Draft) -> Draft:
    """Rewrite the recorded graph so that modules which need not be opened are one call each.

    Source: the code an expert writes by hand, ``x = self.layer1(x)``.
    """
    return _Copy(draft, plan_openings(draft)).run()


class _Copy:
    """Copies the needed nodes, each whole span as one call."""

    def __init__(self, draft: Draft, plan: Plan) -> None:
        self.draft, self.plan, self.recording = draft, plan, draft.recording
        self.graph = fx.Graph()
        self.made: dict[fx.Node, fx.Node] = {}
        self.calls: dict[int, fx.Node] = {}
        self.regions = regions_of(self.recording, plan)
        self.restless = restless_regions(self.recording, plan)
        empty = {index for index in self.regions & self.restless if not self._nodes_of(self.recording.spans[index])}
        self.empty = sorted(empty)
        self.wanted = {node for node, _ in uses_of(self.recording, plan)}
        self.guards = sorted(plan.guards, key=lambda guard: guard.position)
        self.features: dict[int, Feature] = {}

    def run(self) -> Draft:
        for node in self.recording.graph.nodes:
            self._write_guards(facts(node).position)
            self._write_empty(facts(node).position)
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
        paths = {self.recording.spans[index].path for index in self.plan.opened} - {""}
        opened = tuple(sorted(paths))
        features = tuple(self.features[index] for index in range(len(self.plan.features)))
        handed_on = tuple(self.recording.spans[index].path for index in find_handed_on(self.recording, self.plan))
        return dataclasses.replace(self.draft, graph=self.graph, features=features, opened=opened, handed_on=handed_on)

    def _add(self, op: str, target: Any, args: Any, kwargs: Any, known: Facts, name: str | None = None) -> fx.Node:
        args, kwargs = self._built(args, known), self._built(kwargs, known)
        node = self.graph.create_node(op, target, args, kwargs, name=name)
        node.meta["facts"] = known
        return node

    def _built(self, value: Any, known: Facts) -> Any:
        """Turn what is to be built again into calls that build it."""
        if isinstance(value, Build):
            fields = {name: self._built(held, known) for name, held in value.fields}
            nodes = nodes_in(tuple(fields.values()))
            memory = frozenset[Any]().union(*(facts(node).storages for node in nodes))
            return self._add("call_function", value.factory, (), fields, _only_value(known, None, memory))
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
        known = dataclasses.replace(known, restless=span.index in self.restless)
        args, kwargs = self._argument(span.args), self._argument(span.kwargs)
        call = self._add("call_module", span.path, args, kwargs, known)
        self.calls[span.index] = call
        if isinstance(span.result, fx.Node):
            self.made.setdefault(span.result, call)
        for steps, node in span.leaves:
            if node in self.wanted and self.plan.region(self.recording, facts(node).span) == span.index:
                self.made.setdefault(node, self._follow(call, steps, facts(node)))

    def _nodes_of(self, span: Span) -> list[fx.Node]:
        return self.recording.nodes[span.start : span.stop]

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Opaque):
            assert value.span is not None
            source = self.calls[value.span]
            return self._follow(source, value.steps, _only_value(facts(source), None))
        if isinstance(value, ModuleAt):
            return self._add("get_attr", value.path, (), {}, Facts(0, 0))
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
        if node.op == "get_attr" or is_movable(node):
            self._copy(node)
            return self.made[node]
        raise TraceError(f"{node.format_node()} is needed but was not written; please report this model.")

    def _write_empty(self, position: int) -> None:
        """Call the modules that run no operation, and change what Python holds, before what comes after them."""
        while self.empty and self.recording.spans[self.empty[0]].start <= position:
            self._call(self.recording.spans[self.empty.pop(0)])

    # -- guards and features ----------------------------------------------------------------------------------------

    def _write_guards(self, position: int) -> None:
        while self.guards and self.guards[0].position <= position:
            self._write_guard(self.guards.pop(0))

    def _write_guard(self, guard: Guard) -> None:
        place = f"{guard.where}: `{guard.source}`"
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
            value: Any = self._result_of(feature)
        elif self._is_whole(feature):
            value = self._copied_result(feature) if self._is_overwritten(feature) else self._called(feature.span or 0)
        else:
            value = self._built(map_nodes(feature.value, self._use), Facts(feature.moment - 1, 0))
        if feature.steps:
            value = self._follow(value, feature.steps, _picked(facts(value), feature.steps))
        return dataclasses.replace(feature, value=value, steps=())

    def _result_of(self, feature: Feature) -> fx.Node:
        """Return the call of the module whose whole result, which nobody could write down, is a feature."""
        assert feature.span is not None
        kind = opaque_in(feature.value)[0].type_name
        if kind == "generator" or self.plan.region(self.recording, feature.span) != feature.span:
            raise TraceError(
                f"{feature.name!r} holds a {kind}, which cannot be written down as code. Ask for its tensors one by "
                "one, or for nothing inside the module."
            )
        altered = self.recording.spans[feature.span].altered
        return self._copied_result(feature) if altered else self._called(feature.span)

    def _copied_result(self, feature: Feature) -> fx.Node:
        """Copy all that a whole module returns, which on another input may have another structure."""
        call = self._called(feature.span or 0)
        return self._add("call_function", clone_all, (call,), {}, _only_value(facts(call), facts(call).value))

    def _is_whole(self, feature: Feature) -> bool:
        """Say whether a feature is all that a whole module returns, be it a tensor, a tuple or a dict."""
        if feature.span is None or feature.steps or self.plan.region(self.recording, feature.span) != feature.span:
            return False
        span = self.recording.spans[feature.span]
        return feature.value is span.result and not isinstance(span.result, fx.Node)

    def _is_overwritten(self, feature: Feature) -> bool:
        memory = frozenset[Any]().union(*(facts(node).storages for node in nodes_in(feature.value)))
        later = self.recording.nodes[feature.moment :]
        return self.recording.spans[feature.span or 0].altered or any(facts(node).writes & memory for node in later)

    def _called(self, index: int) -> fx.Node:
        if index not in self.calls:
            self._call(self.recording.spans[index])
        return self.calls[index]

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
