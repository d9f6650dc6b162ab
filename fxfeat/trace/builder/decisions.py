"""The decisions that Python took on sizes and values, and which of them have to be checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from fxfeat.ir.source_lines import is_assertion, model_line
from fxfeat.trace.builder.nodes import add_node, guard, is_number
from fxfeat.trace.builder.operands import to_write
from fxfeat.trace.builder.provenance import node_of
from fxfeat.trace.builder.trace import Trace
from fxfeat.trace.unobserved import unobserved_call

_OF_TENSORS = ("size", "dim", "numel", "stride", "is_floating_point", "is_complex", "is_signed", "element_size")


@unobserved_call
def decide(trace: Trace, function: Callable[..., Any], operands: tuple[Any, ...], result: Any, **named: Any) -> Any:
    """Write down that the model's Python took a decision."""
    if not trace.calls.live:
        return result
    written = to_write(trace, operands), to_write(trace, named)
    node = add_node(trace, "call_function", function, *written, value=result)
    return guard_decision(trace, node, result)


@unobserved_call
def guard_count(trace: Trace, function: Callable[..., Any], operands: tuple[Any, ...], length: int) -> None:
    """Check how many elements a range over recorded sizes has."""
    elements = add_node(trace, "call_function", function, to_write(trace, operands), value=length, counted=False)
    guard(trace, add_node(trace, "call_function", len, (elements,), value=length, counted=False), length)


def guard_decision(trace: Trace, node: fx.Node, result: Any) -> Any:
    """Check a decision unless it is the same for every input."""
    if is_rank(trace, node):
        _guard_ranks(trace)
    elif not _is_fixed(trace, node):
        guard(trace, node, result)
        if not any(is_assertion(last.source) for last in trace.decisions.guards[-1:]):
            trace.decisions.deciding.add(trace.calls.owner)
    return result


def guard_answer(trace: Trace, function: Callable[..., Any], args: tuple[Any, ...], answer: Any) -> None:
    """Check that a question to torch, which gets no name, has the answer that it had."""
    guard(trace, add_node(trace, "call_function", function, args, value=answer, counted=False), answer)


def is_rank(trace: Trace, node: fx.Node) -> bool:
    """Say whether a number comes from nothing but how many dimensions tensors have.

    Those follow from the inputs' as long as every other decision stays the same, unless something squeezes. A module
    that has returned may stay whole, and then decides anew.
    """
    if trace.decisions.squeezes or not trace.decisions.deciding.issubset(trace.calls.opened):
        return False
    if (node.op, node.target) == ("call_method", "dim") or (node.target is getattr and node.args[1] == "ndim"):
        return True
    inputs = node.all_input_nodes
    if node.target is len:
        return inputs[0].target is getattr and bool(inputs[0].args[1] == "shape")
    # Only numbers can come from ranks alone; a walk through tensors would go through the whole model.
    return bool(inputs) and all(is_number(source) and is_rank(trace, source) for source in inputs)


def _guard_ranks(trace: Trace) -> None:
    """Check how many dimensions the inputs have, once."""
    unranked, (where, source) = trace.decisions.unranked, model_line()
    for tensor in unranked:
        rank, given = tensor.dim(), node_of(trace, tensor)
        node = add_node(trace, "call_method", "dim", (given,), value=rank, counted=False)
        # The same text for every input, since two that are one tensor are checked once.
        guard(trace, node, rank, where, f"assert input.dim() == {rank}" if is_assertion(source) else "input.dim()")
    unranked.clear()


def _is_fixed(trace: Trace, node: fx.Node) -> bool:
    """Say whether a number is the same for every input, as the shape of a parameter is."""
    inputs = node.all_input_nodes
    if not inputs:
        return node.op == "call_function" and node not in trace.decisions.drawn
    if node.target in _OF_TENSORS or (node.target is getattr and node.args[1] in ("shape", "ndim")):
        return inputs[0].op == "get_attr"
    return all(is_number(source) and _is_fixed(trace, source) for source in inputs)
