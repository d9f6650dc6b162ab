"""Keep whole every module that need not be opened: one call of the original submodule."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

from torch import fx

from fxfeat.errors import TraceError
from fxfeat.ir.draft import Draft
from fxfeat.ir.feature import Feature
from fxfeat.ir.guard import Guard
from fxfeat.ir.module_call import (
    ModuleAt,
    ModuleCall,
    Opaque,
    opaque_in,
)
from fxfeat.ir.node_meta import (
    NodeMeta,
    meta_of,
)
from fxfeat.ir.tap import TappedCall
from fxfeat.ir.tree import Build, Steps, map_nodes, map_structure, nodes_in
from fxfeat.opening.plan import (
    Plan,
    find_implicit_inputs,
    is_movable,
    plan_openings,
    stops_at,
    uses_of,
    whole_calls_mutating_python,
    whole_calls_of,
)
from fxfeat.opening.seal import measured, modules_used
from fxfeat.runtime.check import check
from fxfeat.runtime.clone import clone_all
from fxfeat.runtime.run_tapped import run_tapped


def outline(draft: Draft) -> Draft:
    """Rewrite the recorded graph so that modules which need not be opened are one call each.

    Source: the code an expert writes by hand, ``x = self.layer1(x)``.
    """
    return _Copy(draft, plan_openings(draft)).run()


class _Copy:
    """Copies the needed nodes, each whole module call as one call."""

    def __init__(self, draft: Draft, plan: Plan) -> None:
        self.draft, self.plan, self.recording = draft, plan, draft.recording
        self.graph = fx.Graph()
        self.copies: dict[fx.Node, fx.Node] = {}
        self.calls: dict[int, fx.Node] = {}
        self.whole_calls = whole_calls_of(self.recording, plan)
        self.mutates_python = whole_calls_mutating_python(self.recording, plan)
        empty = {
            index
            for index in self.whole_calls & self.mutates_python
            if not self._nodes_of(self.recording.module_calls[index])
        }
        self.empty = sorted(empty)
        self.wanted = {node for node, _ in uses_of(self.recording, plan)}
        self.guards = sorted(plan.guards, key=lambda guard: guard.position)
        self.features: dict[int, Feature] = {}
        self.tapped_calls: dict[int, TappedCall] = {}
        self.taps: dict[str, fx.Node] = {}

    def run(self) -> Draft:
        for node in self.recording.graph.nodes:
            self._write_guards(meta_of(node).position)
            self._write_empty(meta_of(node).position)
            whole_call = self.plan.whole_call(self.recording, meta_of(node).module_call)
            if whole_call is None and (node in self.plan.needed or node.op == "placeholder"):
                self._copy(node)
            elif whole_call in self.whole_calls and whole_call not in self.calls:
                self._call(self.recording.module_calls[whole_call])
            self._write_features(meta_of(node).position + 1)
        last = meta_of(node).position + 1
        self._write_guards(last)
        for whole_call in sorted(self.whole_calls - set(self.calls)):
            self._call(self.recording.module_calls[whole_call])
        self._write_features(last + 1)
        paths = {self.recording.module_calls[index].path for index in self.plan.opened} - {""}
        opened = tuple(sorted(paths))
        taken = tuple(self.tapped_calls[index] for index in sorted(self.tapped_calls))
        features = tuple(self.features[index] for index in range(len(self.plan.features)))
        implicit_inputs = tuple(
            self.recording.module_calls[index].path for index in find_implicit_inputs(self.recording, self.plan)
        )
        return dataclasses.replace(
            self.draft,
            graph=self.graph,
            features=features,
            opened=opened,
            implicit_inputs=implicit_inputs,
            tapped_calls=taken,
        )

    def _add(self, op: str, target: Any, args: Any, kwargs: Any, meta: NodeMeta, name: str | None = None) -> fx.Node:
        args, kwargs = self._built(args, meta), self._built(kwargs, meta)
        node = self.graph.create_node(op, target, args, kwargs, name=name)
        node.meta["fxfeat"] = meta
        return node

    def _built(self, value: Any, meta: NodeMeta) -> Any:
        """Turn what is to be built again into calls that build it."""

        def call_of(part: Any) -> Any:
            if not isinstance(part, Build):
                return part
            fields = self._built(dict(part.fields), meta)
            memory = frozenset[Any]().union(*(meta_of(node).aliases for node in nodes_in(fields)))
            return self._add("call_function", part.factory, (), fields, _only_value(meta, None, memory))

        return map_structure(value, call_of)

    def _copy(self, node: fx.Node) -> None:
        if meta_of(node).unwritable:
            path = self.recording.module_calls[meta_of(node).module_call].path
            reason = f"{node.target!s} uses {meta_of(node).unwritable}, which cannot be written down as code"
            raise TraceError(self._explain_unwritable(node), path=path, reason=reason)
        if meta_of(node).passed:
            self.copies[node] = self._use(node.all_input_nodes[0])
            return
        args, kwargs = map_nodes(node.args, self._use), map_nodes(node.kwargs, self._use)
        self.copies[node] = self._add(node.op, node.target, args, kwargs, self._moved(meta_of(node)), node.name)

    def _moved(self, meta: NodeMeta) -> NodeMeta:
        return dataclasses.replace(meta, same_as=None)

    def _call(self, module_call: ModuleCall) -> None:
        """Write one call of a whole module, and pick what is needed from what it returns."""
        inside = self._nodes_of(module_call)
        meta = _summed(module_call, [meta_of(node) for node in inside])
        meta = dataclasses.replace(meta, mutates_python=module_call.index in self.mutates_python)
        args, kwargs = self._argument(module_call.args), self._argument(module_call.kwargs)
        tapped = [feature for feature in self.plan.features if feature.whole == module_call.index]
        if tapped:
            call = self._call_tapped(module_call, tapped, args, kwargs, meta)
        else:
            call = self._add("call_module", module_call.path, args, kwargs, meta)
        self.calls[module_call.index] = call
        if isinstance(module_call.result, fx.Node):
            self.copies.setdefault(module_call.result, call)
        for steps, node in module_call.result_nodes:
            if (
                node in self.wanted
                and self.plan.whole_call(self.recording, meta_of(node).module_call) == module_call.index
            ):
                self.copies.setdefault(node, self._follow(call, steps, meta_of(node)))

    def _call_tapped(
        self, module_call: ModuleCall, features: list[Feature], args: Any, kwargs: Any, meta: NodeMeta
    ) -> fx.Node:
        """Write one call of a module that stays whole, and pick what is copied out of it; return its own result."""
        path, reason = self.plan.sealed.reasons[module_call.index]
        taps = tuple(dict.fromkeys(feature.tap for feature in features if feature.tap is not None))
        end = max(feature.produced_at for feature in features)
        stops = stops_at(self.recording, self.plan, module_call, end) and all(tap.call is not None for tap in taps)
        used = modules_used(self.recording, module_call.index, end if stops else module_call.stop)
        earlier = sum(call.path == path for call in self.tapped_calls.values())
        key = f"{path}@{earlier}" if earlier else path
        self.tapped_calls[module_call.index] = TappedCall(key, path, reason, taps, stops, used)
        owner = self._add("get_attr", "", (), {}, NodeMeta(module_call.start, 0, container=True))
        values = {feature.name: measured(feature) for feature in features}
        whole = dataclasses.replace(meta, value=(meta.value, values))
        call = self._add("call_function", run_tapped, (owner, key, *args), kwargs, whole)
        result = self._add(
            "call_function", operator.getitem, (call, 0), {}, _only_value(meta, meta.value, meta.aliases)
        )
        copies = self._add("call_function", operator.getitem, (call, 1), {}, _only_value(meta, values))
        for name, value in values.items():
            self.taps[name] = self._add("call_function", operator.getitem, (copies, name), {}, _only_value(meta, value))
        return result

    def _nodes_of(self, module_call: ModuleCall) -> list[fx.Node]:
        return self.recording.nodes[module_call.start : module_call.stop]

    def _argument(self, value: Any) -> Any:
        return map_structure(value, self._argument_part)

    def _argument_part(self, value: Any) -> Any:
        if isinstance(value, Opaque):
            assert value.module_call is not None
            source = self.calls[value.module_call]
            return self._follow(source, value.steps, _only_value(meta_of(source), None))
        if isinstance(value, ModuleAt):
            return self._add("get_attr", value.path, (), {}, NodeMeta(0, 0))
        return self._use(value) if isinstance(value, fx.Node) else value

    def _follow(self, node: fx.Node, steps: Steps, meta: NodeMeta) -> fx.Node:
        for kind, step in steps:
            function = operator.getitem if kind == "item" else getattr
            after = _only_value(meta, meta.value, meta.aliases)
            after = dataclasses.replace(after, position=meta_of(node).position)
            node = self._add("call_function", function, (node, step), {}, after)
        return node

    def _use(self, node: fx.Node) -> fx.Node:
        """Return the new node for an old one."""
        if node in self.copies:
            return self.copies[node]
        before = meta_of(node).same_as
        if before is not None:
            return self._use(before)
        if node.op == "get_attr" or is_movable(node):
            self._copy(node)
            return self.copies[node]
        raise TraceError(f"{node.format_node()} is needed but was not written; please report this model.")

    def _write_empty(self, position: int) -> None:
        """Call the modules that run no operation, and change what Python holds, before what comes after them."""
        while self.empty and self.recording.module_calls[self.empty[0]].start <= position:
            self._call(self.recording.module_calls[self.empty.pop(0)])

    # -- guards and features ----------------------------------------------------------------------------------------

    def _write_guards(self, position: int) -> None:
        while self.guards and self.guards[0].position <= position:
            self._write_guard(self.guards.pop(0))

    def _write_guard(self, guard: Guard) -> None:
        place = f"{guard.where}: `{guard.source}`"
        if guard.node.op == "get_attr":
            return
        meta = _only_value(meta_of(guard.node), None)
        args = (self._use(guard.node), guard.expected, place)
        self._add("call_function", check, args, {}, dataclasses.replace(meta, position=guard.position))

    def _write_features(self, position: int) -> None:
        for index, feature in enumerate(self.plan.features):
            if index not in self.features and feature.produced_at <= position:
                self.features[index] = self._feature(feature)

    def _feature(self, feature: Feature) -> Feature:
        if feature.tap is not None:
            return dataclasses.replace(feature, value=self.taps[feature.name], steps=())
        if opaque_in(feature.value):
            value: Any = self._result_of(feature)
        elif self._is_whole(feature):
            value = (
                self._copied_result(feature)
                if self._is_overwritten(feature)
                else self._called(feature.module_call or 0)
            )
        else:
            value = self._built(map_nodes(feature.value, self._use), NodeMeta(feature.produced_at - 1, 0))
        if feature.steps:
            value = self._follow(value, feature.steps, _picked(meta_of(value), feature.steps))
        return dataclasses.replace(feature, value=value, steps=())

    def _result_of(self, feature: Feature) -> fx.Node:
        """Return the call of the module whose whole result, which nobody could write down, is a feature."""
        assert feature.module_call is not None
        kind = opaque_in(feature.value)[0].type_name
        if kind == "generator" or self.plan.whole_call(self.recording, feature.module_call) != feature.module_call:
            raise TraceError(
                f"{feature.name!r} holds a {kind}, which cannot be written down as code. Ask for its tensors one by "
                "one, or for nothing inside the module.",
                path=None if kind == "generator" else self.recording.module_calls[feature.module_call].path,
                reason=f"it returns a {kind}, which cannot be written down as code",
            )
        mutated = self.recording.module_calls[feature.module_call].mutated
        return self._copied_result(feature) if mutated else self._called(feature.module_call)

    def _copied_result(self, feature: Feature) -> fx.Node:
        """Copy all that a whole module returns, which on another input may have another structure."""
        call = self._called(feature.module_call or 0)
        return self._add("call_function", clone_all, (call,), {}, _only_value(meta_of(call), meta_of(call).value))

    def _is_whole(self, feature: Feature) -> bool:
        """Say whether a feature is all that a whole module returns, be it a tensor, a tuple or a dict."""
        if (
            feature.module_call is None
            or feature.steps
            or self.plan.whole_call(self.recording, feature.module_call) != feature.module_call
        ):
            return False
        module_call = self.recording.module_calls[feature.module_call]
        return feature.value is module_call.result and not isinstance(module_call.result, fx.Node)

    def _is_overwritten(self, feature: Feature) -> bool:
        memory = frozenset[Any]().union(*(meta_of(node).aliases for node in nodes_in(feature.value)))
        later = self.recording.nodes[feature.produced_at :]
        return self.recording.module_calls[feature.module_call or 0].mutated or any(
            meta_of(node).writes & memory for node in later
        )

    def _called(self, index: int) -> fx.Node:
        if index not in self.calls:
            self._call(self.recording.module_calls[index])
        return self.calls[index]

    def _explain_unwritable(self, node: fx.Node) -> str:
        path = self.recording.module_calls[meta_of(node).module_call].path or type(self.recording.root).__name__
        return (
            f"In {path!r}, {node.target!s} uses {meta_of(node).unwritable}, which cannot be written down as code. "
            "Ask for features outside this module: then it is called whole."
        )


def _only_value(meta: NodeMeta, value: Any, aliases: frozenset[Any] = frozenset()) -> NodeMeta:
    return NodeMeta(meta.position, meta.module_call, value, aliases=aliases, contexts=meta.contexts)


def _picked(meta: NodeMeta, steps: Steps) -> NodeMeta:
    value = meta.value
    for _, step in steps:
        value = value[step]
    return dataclasses.replace(meta, value=value, reads=frozenset(), writes=frozenset(), draws=False)


def _summed(module_call: ModuleCall, inside: list[NodeMeta]) -> NodeMeta:
    """Add up what the nodes of a module call read, wrote and drew."""
    nothing: frozenset[Any] = frozenset()
    leaves = [meta_of(node) for _, node in module_call.result_nodes]
    result = meta_of(module_call.result) if isinstance(module_call.result, fx.Node) else None
    return NodeMeta(
        position=module_call.start,
        module_call=module_call.index,
        value=result.value if result else tuple(meta.value for meta in leaves),
        reads=nothing.union(*(meta.reads | meta.aliases for meta in inside)),
        writes=nothing.union(*(meta.writes for meta in inside)),
        aliases=nothing.union(*(meta.aliases for meta in leaves)),
        draws=any(meta.draws for meta in inside),
        contexts=module_call.contexts,
    )
