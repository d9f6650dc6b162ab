"""Write down arithmetic on sizes and what is taken out of tuples, and tie the results to it."""

from __future__ import annotations

import operator
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxfeat.ir.node_meta import amend
from fxfeat.ir.tree import children, replace_children, walk
from fxfeat.trace.builder.decisions import decide, guard_decision, is_rank
from fxfeat.trace.builder.measure import measure_all
from fxfeat.trace.builder.nodes import add_node, guard
from fxfeat.trace.builder.operands import is_of_trace, to_write
from fxfeat.trace.builder.provenance import measure_memory, tie, tie_parts
from fxfeat.trace.builder.shown_texts import is_for_people
from fxfeat.trace.builder.trace import Trace
from fxfeat.trace.proxies import numbers
from fxfeat.trace.proxies.sequences import RecordedShape, RecordedTuple
from fxfeat.trace.unobserved import unobserved_call


@dataclass(frozen=True)
class TraceLedger:
    """What recorded numbers and tuples tell of what is done with them."""

    trace: Trace

    @unobserved_call
    def compute(self, function: Callable[..., Any], operands: tuple[Any, ...], result: Any) -> Any:
        """Write arithmetic on sizes down."""
        if not self.trace.calls.live:
            return result
        node = add_node(self.trace, "call_function", function, to_write(self.trace, operands), value=result)
        if type(result) not in (int, float):
            return guard_decision(self.trace, node, result)
        return numbers.wrap(result, node, self, self.show(node, result))

    def show(self, node: fx.Node, value: Any) -> Any:
        """Say what code in C is shown in place of a number that comes from data, if anything."""
        decisions = self.trace.decisions
        return numbers.other_than(value, decisions.assumptions.values) if node in decisions.from_data else None

    def decide(self, function: Callable[..., Any], operands: tuple[Any, ...], result: Any) -> Any:
        """Write down that the model's Python took a decision."""
        return decide(self.trace, function, operands, result)

    @unobserved_call
    def pin(self, number: Any, plain: Any) -> None:
        """Write a guard that a number is what it was."""
        if self.trace.calls.live:
            guard_decision(self.trace, number.node, plain)

    def tell(self, number: Any, plain: Any, frame: types.FrameType) -> None:
        """Pin a number that a text is made of, but not where a size is only printed or logged."""
        if self.trace.calls.live and not is_for_people(frame):
            self.pin(number, plain)

    @unobserved_call
    def element(self, source: fx.Node, index: int, value: int) -> fx.Node:
        """Write down that an element of a shape was asked about."""
        return add_node(self.trace, "call_function", operator.getitem, (source, index), counted=False, value=value)

    def go_through(self, shape: RecordedShape) -> None:
        """Write a guard for the rank of a tensor whose sizes are all taken, where it may be another at other sizes."""
        if self.trace.decisions.squeezes and shape.node.target is getattr:
            self.decide(len, (shape,), tuple.__len__(shape))

    @unobserved_call
    def take(self, source: RecordedTuple, key: Any, part: Any) -> Any:
        """Write down that an element was taken from a tuple."""
        part = numbers.plain(part)
        if not self.trace.calls.live or not is_of_trace(self.trace, source):
            return part
        node = add_node(self.trace, "call_function", operator.getitem, (source.node, to_write(self.trace, key)))
        if isinstance(part, torch.Tensor):
            amend(node, **measure_memory(self.trace, part))
            tie(self.trace, part, node)
            return part
        if type(part) is tuple:
            amend(node, **measure_memory(self.trace, part))
            return type(source)(part, node, self) if isinstance(key, slice) else self._nested(part, node)
        amend(node, value=measure_all(part))
        return tie_numbers(self.trace, part, node)

    @unobserved_call
    def join(self, left: Any, right: Any, joined: tuple[Any, ...], kind: type) -> Any:
        """Write down that two tuples were joined."""
        if not self.trace.calls.live:
            return joined
        operands = (to_write(self.trace, left), to_write(self.trace, right))
        node = add_node(self.trace, "call_function", operator.add, operands)
        amend(node, **measure_memory(self.trace, joined))
        return kind(tuple(numbers.plain(part) for part in joined), node, self)

    def _nested(self, part: tuple[Any, ...], node: fx.Node) -> RecordedTuple:
        inner = RecordedTuple(part, node, self)
        tie_parts(self.trace, inner, node)
        return inner


def tie_numbers(trace: Trace, value: Any, node: fx.Node) -> Any:
    """Tie the sizes that a function returned, in whatever it holds them, to the steps that lead to them."""
    if type(value) is torch.Size:
        return tie_shape(trace, value, node)
    if type(value) not in (list, tuple, dict):
        return tie_number(trace, value, node)
    holding = [(step, part) for step, part in children(value) if _holds_numbers(part)]
    return replace_children(value, {step: _tie_part(trace, part, node, step[1]) for step, part in holding})


def tie_shape(trace: Trace, shape: torch.Size, node: fx.Node) -> RecordedShape:
    """Tie a shape to its node."""
    if node in trace.decisions.from_data:
        _notice_read(trace, node, tuple(shape), int)
    return RecordedShape(shape, node, TraceLedger(trace))


def tie_number(trace: Trace, value: Any, node: fx.Node) -> Any:
    """Tie a number to its node; anything else comes back as it is."""
    ledger = TraceLedger(trace)
    if type(value) in (int, float) and node in trace.decisions.from_data and not is_rank(trace, node):
        _notice_read(trace, node, value, type(value))
    return numbers.wrap(value, node, ledger, ledger.show(node, value))


def read_number(trace: Trace, value: Any, node: fx.Node) -> Any:
    """Tie a number that was read out of a tensor to its node."""
    if type(value) not in (int, float):
        # Python has no subclass of bool that could remember where it came from.
        guard(trace, node, value)
        return value
    trace.decisions.from_data.add(node)
    return tie_number(trace, value, node)


def _notice_read(trace: Trace, node: fx.Node, value: Any, kind: type) -> None:
    """Note that code was told of data, and check it where other numbers are other code.

    Code in C takes the number out of a subclass of ``int`` unseen: as an index, or in a format. Where a recording that
    shows other numbers is other code, that has happened.
    """
    trace.decisions.reads_values.add(kind)
    if trace.decisions.assumptions.values == "pinned":
        guard(trace, node, value)


def _tie_part(trace: Trace, value: Any, node: fx.Node, key: Any) -> Any:
    measured = measure_all(value)
    part = add_node(trace, "call_function", operator.getitem, (node, key), counted=False, value=measured)
    return tie_numbers(trace, value, part)


def _holds_numbers(value: Any) -> bool:
    return any(type(part) in (int, float) for _, part in walk(value))
