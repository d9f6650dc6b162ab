"""Check sizes that the recorded code depends on in ways that left no trace in the graph."""

from __future__ import annotations

import operator

from torch import fx

from fxfeat.ir.draft import Draft
from fxfeat.ir.guard import InputGuard
from fxfeat.ir.node_meta import NodeMeta, meta_of
from fxfeat.ir.tree import spell
from fxfeat.runtime.check import check


def guard_inputs(draft: Draft) -> Draft:
    """Write a check for each pinned size right behind the inputs."""
    # By the parameter's name: the node of one that is called input, as one of Python's functions, has another.
    inputs = {str(node.target).lstrip("*"): node for node in draft.graph.nodes if node.op == "placeholder"}
    last = list(inputs.values())[-1] if inputs else None
    for held in reversed(draft.input_guards):
        if held.parameter in inputs and last is not None:
            _write(draft.graph, inputs[held.parameter], last, held)
    return draft


def _write(graph: fx.Graph, source: fx.Node, last: fx.Node, pinned: InputGuard) -> None:
    known = NodeMeta(meta_of(last).position, 0)
    which = pinned.attribute if pinned.dimension is None else f"shape[{pinned.dimension}]"
    place = f"{pinned.parameter}{spell(pinned.steps)}.{which}"
    made: list[fx.Node] = []
    with graph.inserting_after(last):
        node = source
        for kind, key in pinned.steps:
            node = _after(graph, made, operator.getitem if kind == "item" else getattr, (node, key), last)
        for name in which.partition("[")[0].split("."):
            node = _after(graph, made, getattr, (node, name), last)
        if pinned.dimension is not None:
            node = _after(graph, made, operator.getitem, (node, pinned.dimension), last)
        reason = f"{place}: `others of {place} were found to run other code`"
        _after(graph, made, check, (node, pinned.size, reason), last)
    for node in made:
        node.meta["fxfeat"] = known


def _after(graph: fx.Graph, made: list[fx.Node], target: object, args: tuple[object, ...], last: fx.Node) -> fx.Node:
    with graph.inserting_after(made[-1] if made else last):
        node = graph.call_function(target, args)  # type: ignore[arg-type]
    made.append(node)
    return node
