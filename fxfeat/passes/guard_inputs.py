"""Check sizes that the recorded code depends on in ways that left no trace in the graph."""

from __future__ import annotations

import operator

from torch import fx

from fxfeat.ir.draft import Draft
from fxfeat.ir.guard import OF_CALL, InputGuard
from fxfeat.ir.node_meta import NodeMeta, meta_of
from fxfeat.ir.tree import spell
from fxfeat.runtime.check import check


def guard_inputs(draft: Draft) -> Draft:
    """Write a check for each pinned size right behind the inputs."""
    # By the parameter's name: the node of one that is called input, as one of Python's functions, has another.
    inputs = {str(node.target).lstrip("*"): node for node in draft.graph.nodes if node.op == "placeholder"}
    # Behind the checks of what kinds the inputs are: what is no tensor has no shape.
    kinds = [node for node in draft.graph.nodes if node.target is check and str(node.args[2]).startswith(f"{OF_CALL}:")]
    last = [*inputs.values(), *kinds][-1] if inputs else None
    for guard in reversed(draft.input_guards):
        if guard.parameter in inputs and last is not None:
            _write(draft.graph, inputs[guard.parameter], last, guard)
    return draft


def _write(graph: fx.Graph, source: fx.Node, last: fx.Node, guard: InputGuard) -> None:
    meta = NodeMeta(meta_of(last).position, 0)
    which = guard.attribute if guard.dimension is None else f"shape[{guard.dimension}]"
    place = f"{guard.parameter}{spell(guard.steps)}.{which}"
    added: list[fx.Node] = []
    with graph.inserting_after(last):
        node = source
        for kind, key in guard.steps:
            node = _after(graph, added, operator.getitem if kind == "item" else getattr, (node, key), last)
        for name in which.partition("[")[0].split("."):
            node = _after(graph, added, getattr, (node, name), last)
        if guard.dimension is not None:
            node = _after(graph, added, operator.getitem, (node, guard.dimension), last)
        reason = "were found to run other code" if guard.runs else "were not found to run"
        _after(graph, added, check, (node, guard.size, f"{place}: `others of {place} {reason}`"), last)
    for node in added:
        node.meta["fxfeat"] = meta


def _after(graph: fx.Graph, added: list[fx.Node], target: object, args: tuple[object, ...], last: fx.Node) -> fx.Node:
    with graph.inserting_after(added[-1] if added else last):
        node = graph.call_function(target, args)  # type: ignore[arg-type]
    added.append(node)
    return node
