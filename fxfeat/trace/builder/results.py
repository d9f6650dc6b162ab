"""Write down a call that has run, and tie what it returned to it."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from fxfeat.ir.node_meta import RNG, amend, meta_of
from fxfeat.runtime.check import raised
from fxfeat.trace.builder.decisions import guard_decision
from fxfeat.trace.builder.ledger import TraceLedger, read_number, tie_number, tie_numbers, tie_shape
from fxfeat.trace.builder.nodes import add_node, guard, note_dtype, uncounted
from fxfeat.trace.builder.operands import add_call
from fxfeat.trace.builder.provenance import measure_memory, separate, tie_parts, tie_result
from fxfeat.trace.builder.trace import Effects, Trace
from fxfeat.trace.proxies.sequences import RecordedTuple

_COUNTED = (
    *("unbind", "chunk", "unsafe_chunk", "unsafe_split", "split", "tensor_split", "split_with_sizes"),
    *("nonzero", "hsplit", "vsplit", "dsplit", "where", "stride"),
)
"""Calls that return as many tensors, or numbers, as a rank, a size or a value says."""


def write_result(
    trace: Trace,
    op: str,
    target: Any,
    args: Any,
    kwargs: Any,
    result: Any,
    effects: Effects,
    occurrence: tuple[str, int] | None = None,
) -> Any:
    """Append the node of a call that has run, and tie what it returned to it."""
    node = add_call(trace, op, target, args, kwargs)
    reads, writes = frozenset(effects.reads), frozenset(effects.writes)
    amend(node, occurrence=occurrence, reads=reads, writes=writes, draws=effects.draws)
    if effects.draws:
        amend(node, constant=False)
    if effects.in_training:
        amend(node, in_training=frozenset(effects.in_training))
    if effects.draws or not trace.decisions.random.isdisjoint(node.all_input_nodes):
        trace.decisions.random.add(node)
    if effects.sized_by_data and trace.fake_tensors.kind == "real":
        trace.decisions.from_data.add(node)
    result = _tie(trace, result, node, effects)
    amend(node, **measure_memory(trace, result))
    return result


def write_draw(trace: Trace, function: Any, args: Any, kwargs: Any, number: Any) -> Any:
    """Append a draw from Python or NumPy, and tie the number to it."""
    state = frozenset({RNG})
    with uncounted(trace):
        node = add_call(trace, "call_function", function, args, kwargs)
    amend(node, value=number, reads=state, writes=state, draws=True, constant=False)
    trace.decisions.drawn.add(node)
    return read_number(trace, number, node)


def write_failure(trace: Trace, op: str, target: Any, args: Any, kwargs: Any, error: Exception) -> None:
    """Check that a call fails, in case the model's code catches that."""
    function = getattr(torch.Tensor, target) if op == "call_method" else target
    node = add_call(trace, "call_function", raised, (function, *args), kwargs)
    amend(node, counted=False)
    guard(trace, node, type(error).__name__)


def _tie(trace: Trace, result: Any, node: fx.Node, effects: Effects) -> Any:
    if isinstance(result, torch.Tensor):
        return tie_result(trace, result, node, effects.writes)
    if type(result) is torch.Size:
        return tie_shape(trace, result, node)
    if type(result) is tuple:
        return _tie_tuple(trace, result, node, effects)
    if isinstance(result, bool):
        return guard_decision(trace, node, result)
    if type(result) in (int, float):
        read = read_number if node.target in ("item", int, float) else tie_number
        return read(trace, result, node)
    if type(result) is complex:
        return read_number(trace, result, node)
    if isinstance(result, torch.dtype):
        note_dtype(trace, node, result)
        return result
    if type(result) is list and _name_of(node) == "tolist":
        shape = add_node(trace, "call_function", getattr, (node.args[0], "shape"), counted=False)
        guard(trace, shape, meta_of(node.all_input_nodes[0]).value.shape)
        return _read_all(trace, result, node)
    result = tie_numbers(trace, result, node)
    tie_parts(trace, result, node)
    return result


def _tie_tuple(trace: Trace, result: tuple[Any, ...], node: fx.Node, effects: Effects) -> RecordedTuple:
    counted = _name_of(node) in _COUNTED and not meta_of(node).constant
    parts = tuple(separate(trace, value, effects.writes) for value in result)
    for index, part in enumerate(parts):
        if type(part) in (bool, str):
            guard(trace, add_node(trace, "call_function", operator.getitem, (node, index), counted=False), part)
    recorded = RecordedTuple(parts, node, TraceLedger(trace), counted)
    tie_parts(trace, recorded, node)
    return recorded


def _name_of(node: fx.Node) -> Any:
    return getattr(node.target, "__name__", node.target)


def _read_all(trace: Trace, values: list[Any], node: fx.Node) -> list[Any]:
    numbers_read = []
    for index, value in enumerate(values):
        element = add_node(trace, "call_function", operator.getitem, (node, index), counted=False, value=value)
        read = _read_all if type(value) is list else read_number
        numbers_read.append(read(trace, value, element))
    return numbers_read
