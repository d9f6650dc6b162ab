"""Arithmetic on sizes, elements taken from tuples, and the decisions that Python took on either."""

from __future__ import annotations

import operator
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from fxfeat.ir.node_meta import TensorMeta, amend, meta_of
from fxfeat.ir.tree import children, replace_children, walk
from fxfeat.trace.builder.measure import measure_all
from fxfeat.trace.builder.placeholders import Arguments
from fxfeat.trace.builder.shown_texts import is_for_people
from fxfeat.trace.proxies import numbers
from fxfeat.trace.proxies.sequences import RecordedShape, RecordedTuple
from fxfeat.trace.unobserved import unobserved_call

_OF_TENSORS = ("size", "dim", "numel", "stride", "is_floating_point", "is_complex", "is_signed", "element_size")


class Decisions(Arguments):
    """Answers recorded numbers and tuples, and keeps a guard for each decision."""

    @unobserved_call
    def compute(self, function: Callable[..., Any], operands: tuple[Any, ...], result: Any) -> Any:
        """Write arithmetic on sizes down."""
        if not self.live:
            return result
        node = self.add("call_function", function, self.to_write(operands), value=result)
        return numbers.wrap(result, node, self)

    @unobserved_call
    def decide(self, function: Callable[..., Any], operands: tuple[Any, ...], result: Any) -> Any:
        """Write down that the model's Python took a decision."""
        if not self.live:
            return result
        node = self.add("call_function", function, self.to_write(operands), value=result)
        return self._decided(node, result)

    @unobserved_call
    def count(self, function: Callable[..., Any], operands: tuple[Any, ...], length: int) -> None:
        """Write down how many elements a range over recorded sizes had."""
        made = self.add("call_function", function, self.to_write(operands), value=length, counted=False)
        self.guard(self.add("call_function", len, (made,), value=length, counted=False), length)

    def _decided(self, node: fx.Node, result: Any) -> Any:
        if self._is_rank(node):
            self._guard_ranks()
        elif not self._is_fixed(node):
            self.guard(node, result)
        return result

    def _is_rank(self, node: fx.Node) -> bool:
        """Say whether a number comes from nothing but how many dimensions tensors have.

        Those follow from the inputs' as long as every other decision stays the same, unless something squeezes.
        """
        if self.squeezes:
            return False
        if node.target == "dim" or (node.target is getattr and node.args[1] == "ndim"):
            return True
        inputs = node.all_input_nodes
        if node.target is len:
            return inputs[0].target is getattr and bool(inputs[0].args[1] == "shape")
        # Only numbers can come from ranks alone; a walk through tensors would go through the whole model.
        return bool(inputs) and all(not isinstance(meta_of(n).value, TensorMeta) and self._is_rank(n) for n in inputs)

    def _guard_ranks(self) -> None:
        """Check how many dimensions the inputs have, once."""
        for tensor in self._inputs:
            rank = tensor.dim()
            node = self.add("call_method", "dim", (self.node_of(tensor),), value=rank, counted=False)
            self.guard(node, rank)
        self._inputs.clear()

    def _is_fixed(self, node: fx.Node) -> bool:
        """Say whether a number is the same for every input, as the shape of a parameter is."""
        inputs = node.all_input_nodes
        if not inputs:
            return node.op == "call_function" and node not in self.drawn
        if node.target in _OF_TENSORS or (node.target is getattr and node.args[1] in ("shape", "ndim")):
            return inputs[0].op == "get_attr"
        return all(not isinstance(meta_of(held).value, TensorMeta) and self._is_fixed(held) for held in inputs)

    @unobserved_call
    def element(self, source: fx.Node, index: int, value: int) -> fx.Node:
        """Write down that an element of a shape was asked about."""
        return self.add("call_function", operator.getitem, (source, index), counted=False, value=value)

    def go_through(self, shape: RecordedShape) -> None:
        """Write a guard for the rank of a tensor whose sizes are all taken, where it may be another at other sizes."""
        if self.squeezes and shape.node.target is getattr:
            self.decide(len, (shape,), tuple.__len__(shape))

    @unobserved_call
    def pin(self, number: Any, plain: Any) -> None:
        """Write a guard that a number is what it was."""
        if self.live:
            self._decided(number.node, plain)

    def tell(self, number: Any, plain: Any, frame: types.FrameType) -> None:
        """Pin a number that a text is made of, but not where a size is only printed or logged."""
        if self.live and not is_for_people(frame):
            self.pin(number, plain)

    @unobserved_call
    def take(self, source: RecordedTuple, key: Any, held: Any) -> Any:
        """Write down that an element was taken from a tuple."""
        held = numbers.plain(held)
        if not self.live or not self._is_mine(source):
            return held
        node = self.add("call_function", operator.getitem, (source.node, self.to_write(key)))
        if isinstance(held, torch.Tensor):
            amend(node, **self._measured(held))
            self.tie(held, node)
            return held
        if type(held) is tuple:
            amend(node, **self._measured(held))
            return type(source)(held, node, self) if isinstance(key, slice) else self._nested(held, node)
        amend(node, value=measure_all(held))
        return self.tie_numbers(held, node)

    def tie_numbers(self, value: Any, node: fx.Node) -> Any:
        """Tie the sizes that a function returned, in whatever it holds them, to the steps that lead to them."""
        if type(value) is torch.Size:
            return RecordedShape(value, node, self)
        if type(value) not in (list, tuple, dict):
            return numbers.wrap(value, node, self)
        holding = [(step, held) for step, held in children(value) if _holds_numbers(held)]
        return replace_children(value, {step: self._tied_part(held, node, step[1]) for step, held in holding})

    def _tied_part(self, value: Any, node: fx.Node, key: Any) -> Any:
        part = self.add("call_function", operator.getitem, (node, key), counted=False, value=measure_all(value))
        return self.tie_numbers(value, part)

    def _nested(self, held: tuple[Any, ...], node: fx.Node) -> RecordedTuple:
        made = RecordedTuple(held, node, self)
        self._register(made, node)
        return made

    @unobserved_call
    def join(self, left: Any, right: Any, joined: tuple[Any, ...], kind: type) -> Any:
        """Write down that two tuples were joined."""
        if not self.live:
            return joined
        node = self.add("call_function", operator.add, (self.to_write(left), self.to_write(right)))
        amend(node, **self._measured(joined))
        return kind(tuple(numbers.plain(held) for held in joined), node, self)


def _holds_numbers(value: Any) -> bool:
    return any(type(held) in (int, float) for _, held in walk(value))
