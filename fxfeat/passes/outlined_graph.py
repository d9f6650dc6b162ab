"""A graph under construction, in which whole module calls are one call each, and copies of single nodes in it."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

from torch import fx

from fxfeat.errors import TraceError
from fxfeat.ir.draft import Draft
from fxfeat.ir.node_meta import NodeMeta, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tap import TappedCall
from fxfeat.ir.tree import Build, Steps, map_nodes, map_structure, nodes_in
from fxfeat.opening.plan import Plan, uses_of, whole_calls_mutating_python, whole_calls_of
from fxfeat.opening.reach import is_movable
from fxfeat.passes.call_meta import only_value


@dataclasses.dataclass(frozen=True)
class OutlinedGraph:
    """The new graph, what it is written from, and what is written so far.

    ``copies`` holds the new node for each old one, ``calls`` the node of each whole module call by its index. ``taps``
    holds the values that are copied out of tapped calls, by the name of the feature. ``used_nodes`` are the old nodes
    that something uses. ``may_stop`` says that tapped calls may be stopped behind the last value.
    """

    recording: Recording
    plan: Plan
    whole_calls: set[int]
    mutates_python: set[int | None]
    used_nodes: set[fx.Node]
    may_stop: bool
    graph: fx.Graph = dataclasses.field(default_factory=fx.Graph)
    copies: dict[fx.Node, fx.Node] = dataclasses.field(default_factory=dict)
    calls: dict[int, fx.Node] = dataclasses.field(default_factory=dict)
    tapped_calls: dict[int, TappedCall] = dataclasses.field(default_factory=dict)
    taps: dict[str, fx.Node] = dataclasses.field(default_factory=dict)

    def home_of(self, node: fx.Node) -> int | None:
        """Return the whole module call that an old node lies in, if any."""
        return self.plan.whole_call(self.recording, meta_of(node).module_call)


def start_graph(draft: Draft, plan: Plan) -> OutlinedGraph:
    """Return an empty graph to be written by a plan."""
    recording = draft.recording
    return OutlinedGraph(
        recording,
        plan,
        whole_calls=whole_calls_of(recording, plan),
        mutates_python=whole_calls_mutating_python(recording, plan),
        used_nodes={node for node, _ in uses_of(recording, plan)},
        may_stop=draft.may_stop,
    )


def add_node(
    outlined: OutlinedGraph, op: str, target: Any, args: Any, kwargs: Any, meta: NodeMeta, name: str | None = None
) -> fx.Node:
    """Write a node, and before it what builds the objects among its arguments."""
    args, kwargs = build_objects(outlined, args, meta), build_objects(outlined, kwargs, meta)
    node = outlined.graph.create_node(op, target, args, kwargs, name=name)
    node.meta["fxfeat"] = meta
    return node


def add_function(outlined: OutlinedGraph, function: Any, args: Any, meta: NodeMeta) -> fx.Node:
    """Write a call of a function."""
    return add_node(outlined, "call_function", function, args, {}, meta)


def build_objects(outlined: OutlinedGraph, value: Any, meta: NodeMeta) -> Any:
    """Turn what is to be built again into calls that build it."""

    def call_of(part: Any) -> Any:
        if not isinstance(part, Build):
            return part
        fields = build_objects(outlined, dict(part.fields), meta)
        memory = frozenset[Any]().union(*(meta_of(node).aliases for node in nodes_in(fields)))
        return add_node(outlined, "call_function", part.factory, (), fields, only_value(meta, None, memory))

    return map_structure(value, call_of)


def follow_steps(outlined: OutlinedGraph, node: fx.Node, steps: Steps, meta: NodeMeta) -> fx.Node:
    """Write the steps from a node into its value, and return the last."""
    for kind, step in steps:
        function = operator.getitem if kind == "item" else getattr
        after = dataclasses.replace(only_value(meta, meta.value, meta.aliases), position=meta_of(node).position)
        node = add_function(outlined, function, (node, step), after)
    return node


def copy_node(outlined: OutlinedGraph, node: fx.Node) -> None:
    """Write an old node again."""
    if meta_of(node).unwritable:
        raise _refuse_unwritable(outlined.recording, node)
    if meta_of(node).passed:
        outlined.copies[node] = use_node(outlined, node.all_input_nodes[0])
        return
    args = map_nodes(node.args, lambda source: use_node(outlined, source))
    kwargs = map_nodes(node.kwargs, lambda source: use_node(outlined, source))
    meta = dataclasses.replace(meta_of(node), same_as=None)
    name = None if node.op == "call_module" else node.name  # fx makes one of the module's path
    outlined.copies[node] = add_node(outlined, node.op, node.target, args, kwargs, meta, name)


def use_node(outlined: OutlinedGraph, node: fx.Node) -> fx.Node:
    """Return the new node for an old one."""
    if node in outlined.copies:
        return outlined.copies[node]
    before = meta_of(node).same_as
    if before is not None:
        return use_node(outlined, before)
    if node.op == "get_attr" or is_movable(node):
        copy_node(outlined, node)
        return outlined.copies[node]
    raise TraceError(f"{node.format_node()} is needed but was not written; please report this model.")


def _refuse_unwritable(recording: Recording, node: fx.Node) -> TraceError:
    path = recording.module_calls[meta_of(node).module_call].path
    reason = f"{node.target!s} uses {meta_of(node).unwritable}, which cannot be written down as code"
    where = path or type(recording.root).__name__
    return TraceError(
        f"In {where!r}, {reason}. Ask for features outside this module: then it is called whole.",
        path=path,
        reason=reason,
    )
