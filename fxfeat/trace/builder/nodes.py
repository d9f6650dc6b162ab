"""Append nodes to the graph, and keep guards on them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

from fxfeat.ir.guard import Guard
from fxfeat.ir.node_meta import DRAWN, CallPath, NodeMeta, TensorMeta, meta_of
from fxfeat.ir.source_lines import is_assertion, is_raising, model_line
from fxfeat.trace.builder.regions import contexts_in_force, notice_switches
from fxfeat.trace.builder.trace import Trace
from fxfeat.trace.builder.unsupported import refuse

_READ_OUT = (bool, int, float, complex, operator.index, "item", "tolist", torch.equal, torch.allclose, torch.is_nonzero)
"""What gives a plain value out of a tensor's data."""


def add_node(
    trace: Trace, op: str, target: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, **meta: Any
) -> fx.Node:
    """Append a node, and note what is known of it; ``name`` is the fx name that it would like."""
    if trace.obstacles.caught:
        _guard_after_an_error(trace)
    notice_switches(trace)
    # fx would make a name of the module's path, which takes it longer than all else about the node.
    name = meta.pop("name", "module" if op == "call_module" else None)
    node = trace.graph.create_node(op, target, args, kwargs or {}, name=name)
    meta["counted"] = meta.get("counted", True) and trace.numbering.counting
    runs_model = op in ("placeholder", "call_module")
    meta.setdefault("constant", not runs_model and all(meta_of(n).constant for n in node.all_input_nodes))
    meta["call_path"] = next_call_path(trace) if meta["counted"] else ()
    position, owner = trace.numbering.position, trace.calls.owner
    node.meta["fxfeat"] = NodeMeta(position, owner, contexts=contexts_in_force(trace), **meta)
    trace.numbering.position += 1
    if not trace.decisions.from_data.isdisjoint(node.all_input_nodes):
        trace.decisions.from_data.add(node)
    return node


def next_call_path(trace: Trace) -> CallPath:
    """Number what happens next."""
    calls, events = trace.calls, trace.numbering.events
    around = calls.call_paths[calls.opened[-1]] if calls.opened else ()
    events[around] += 1
    return (*around, events[around])


@contextmanager
def uncounted(trace: Trace) -> Iterator[None]:
    """Write calls down that get no names, because they are not the model's own."""
    outer, trace.numbering.counting = trace.numbering.counting, False
    try:
        yield
    finally:
        trace.numbering.counting = outer


def nodes_from(trace: Trace, position: int) -> list[fx.Node]:
    """List the nodes written since a position, the last one first."""
    nodes: list[fx.Node] = []
    for node in reversed(trace.graph.nodes):
        if meta_of(node).position < position:
            break
        nodes.append(node)
    return nodes


def guard(trace: Trace, node: fx.Node, expected: Any, *place: str) -> None:
    """Keep a decision, with the line of the model that took it; one on a drawn number falls anew each time."""
    if _is_drawn(trace, node):
        refuse(trace, DRAWN)
        return
    if not _is_unneeded(trace, node):
        trace.decisions.guards.append(_guard(trace, node, expected, *place))


def note_dtype(trace: Trace, node: fx.Node, dtype: torch.dtype) -> None:
    """Keep where code was told a dtype, to be checked if it matters."""
    if not _is_unneeded(trace, node):
        trace.decisions.dtype_reads.append(_guard(trace, node, dtype))


def _guard(trace: Trace, node: fx.Node, expected: Any, *place: str) -> Guard:
    where, source = place or model_line()
    asserts = is_assertion(source) or (not place and is_raising())
    if _goes_by_random_values(trace, node):
        where = f"{where}, where random numbers decide (engine='tap' takes every path)"
    return Guard(node, expected, where, source, trace.calls.owner, trace.numbering.position, asserts=asserts)


def _guard_after_an_error(trace: Trace) -> None:
    """Check the shapes of the inputs: at others the error that the model's code caught may not be raised."""
    where, trace.obstacles.caught = trace.obstacles.caught, ""
    reason = f"an error is caught, which other shapes may not raise, at {where}"
    for node in [node for node in trace.graph.nodes if node.op == "placeholder"]:
        if isinstance(meta_of(node).value, TensorMeta):
            shape = add_node(trace, "call_function", getattr, (node, "shape"), counted=False)
            guard(trace, shape, meta_of(node).value.shape, reason, f"{node.name}.shape")


def _is_unneeded(trace: Trace, node: fx.Node) -> bool:
    """Say whether a decision is about an argument that no feature needs."""
    unneeded = trace.decisions.assumptions.unneeded
    behind = walk_back(node) if unneeded else ()
    return any(source.op == "placeholder" and source.target in unneeded for source in behind)


def _goes_by_random_values(trace: Trace, node: fx.Node) -> bool:
    """Say whether a number was read out of a tensor that depends on torch's random numbers."""
    random = trace.decisions.random
    numbers = walk_back(node, is_number) if random else ()
    return any(number.target in _READ_OUT and not random.isdisjoint(number.all_input_nodes) for number in numbers)


def _is_drawn(trace: Trace, node: fx.Node) -> bool:
    """Say whether a number comes from one that was drawn, and not from a tensor."""
    drawn = trace.decisions.drawn
    return bool(drawn) and not drawn.isdisjoint(walk_back(node, is_number))


def is_number(node: fx.Node) -> bool:
    """Say whether a node gives no tensor."""
    return not isinstance(meta_of(node).value, TensorMeta)


def walk_back(node: fx.Node, follows: Callable[[fx.Node], bool] = lambda source: True) -> Iterator[fx.Node]:
    """Yield a node and what it was computed from, each once: a chain of additions has twice as many ways at each step.

    Args:
        node: where to begin.
        follows: whether to go on to a node.
    """
    waiting, seen = [node], {node}
    while waiting:
        source = waiting.pop()
        yield source
        unseen = [other for other in source.all_input_nodes if other not in seen and follows(other)]
        seen.update(unseen)
        waiting += unseen
