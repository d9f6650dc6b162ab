"""Tuples and shapes that are plain tuples to the model and write down each element they hand out."""

from __future__ import annotations

import dis
import math
import operator
import sys
import types
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import fx

from fxfeat.ir.tree import is_plain, map_parts, map_structure
from fxfeat.trace.proxies.numbers import RecordedSize, plain


class Shelf(Protocol):
    """Where a recorded tuple tells what is done with it."""

    def take(self, source: RecordedTuple, key: Any, part: Any) -> Any:
        """Write ``source[key]`` down and return ``part`` tied to it."""

    def join(self, left: Any, right: Any, joined: tuple[Any, ...], kind: type) -> Any:
        """Write ``left + right`` down and return ``joined`` tied to it."""

    def decide(self, function: Any, operands: tuple[Any, ...], result: Any) -> Any:
        """Write a guard that ``function(*operands)`` is ``result`` and return ``result``."""

    def show(self, node: fx.Node, value: Any) -> Any:
        """Say what code in C is shown of a number in place of it, if anything."""

    def go_through(self, shape: RecordedShape) -> None:
        """Note that all sizes of a shape are taken, however many."""


class RecordedTuple(tuple):
    """A tuple that a recorded call returned."""

    node: fx.Node
    shelf: Shelf
    counted: bool

    def __new__(cls, values: Any, node: fx.Node, shelf: Shelf, counted: bool = False) -> RecordedTuple:
        recorded = super().__new__(cls, values)
        recorded.node, recorded.shelf, recorded.counted = node, shelf, counted
        return recorded

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (list(tuple.__iter__(self)),)

    def __getitem__(self, key: Any) -> Any:
        return self.shelf.take(self, key, tuple.__getitem__(self, key))

    def __iter__(self) -> Iterator[Any]:
        self._count()
        # Eagerly, as unpacking does: names are given in the order in which elements are taken.
        return iter([self.shelf.take(self, index, part) for index, part in enumerate(tuple.__iter__(self))])

    def __len__(self) -> int:
        self._count()
        return tuple.__len__(self)

    def __add__(self, other: Any) -> Any:
        if not isinstance(other, tuple):
            return NotImplemented
        return self.shelf.join(self, other, (*tuple.__iter__(self), *tuple.__iter__(other)), type(self))

    def __radd__(self, other: Any) -> Any:
        if not isinstance(other, tuple):
            return NotImplemented
        return self.shelf.join(other, self, (*tuple.__iter__(other), *tuple.__iter__(self)), type(self))

    def _count(self) -> None:
        if self.counted:
            self.counted = False
            self.shelf.decide(len, (self,), tuple.__len__(self))


class RecordedShape(RecordedTuple):
    """The shape of a recorded tensor: ``isinstance(shape, torch.Size)`` holds, which cannot be subclassed."""

    def __new__(cls, values: Any, node: fx.Node, shelf: Shelf, counted: bool = False) -> RecordedShape:
        exact = [plain(value) for value in values]
        sizes = (RecordedSize(value, node, index, shelf, shelf.show(node, value)) for index, value in enumerate(exact))
        return super().__new__(cls, sizes, node, shelf, counted)  # type: ignore[return-value]

    def __iter__(self) -> Iterator[Any]:
        if _unpacks(sys._getframe(1)):
            self.shelf.go_through(self)
        else:
            self.shelf.decide(len, (self,), tuple.__len__(self))
        return super().__iter__()

    # Reporting torch.Size here is what makes isinstance agree.
    __class__ = property(lambda self: torch.Size)

    def __len__(self) -> int:
        rank = tuple.__len__(self)
        self.shelf.decide(len, (self,), rank)
        return rank

    def __repr__(self) -> str:
        frame = sys._getframe(1)
        self.shelf.go_through(self)
        for size in tuple.__iter__(self):
            size.ledger.tell(size, plain(size), frame)
        return repr(torch.Size(map(plain, tuple.__iter__(self))))

    def numel(self) -> int:
        """Multiply the sizes."""
        return math.prod(self)

    def __eq__(self, other: Any) -> bool:
        return self._compare(operator.eq, other)

    def __ne__(self, other: Any) -> bool:
        return self._compare(operator.ne, other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def _compare(self, function: Any, other: Any) -> bool:
        if not isinstance(other, tuple):
            return function is operator.ne
        result = function(tuple(map(plain, tuple.__iter__(self))), tuple(map(plain, tuple.__iter__(other))))
        return self.shelf.decide(function, (self, other), result)


def _unpacks(frame: types.FrameType) -> bool:
    """Say whether code is at ``n, c = shape``, which raises of itself where there are other than two sizes."""
    return dis.opname[frame.f_code.co_code[frame.f_lasti]] == "UNPACK_SEQUENCE"


def plain_numbers(value: Any) -> Any:
    """Strip the memory off recorded numbers alone; what holds none stays what it is, and so do tuples and shapes.

    >>> plain_numbers((1, [2.0]))
    (1, [2.0])
    """
    return map_parts(value, plain, is_plain)


def plain_parts(value: Any) -> Any:
    """Strip the memory off the recorded numbers that tuples, lists and dicts hold.

    >>> plain_parts((1, [2.0], {"a": None}))
    (1, [2.0], {'a': None})
    """
    return map_structure(value, plain)
