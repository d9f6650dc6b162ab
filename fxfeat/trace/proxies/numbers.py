"""Numbers that are plain ``int`` and ``float`` to the model and remember the node they came from.

A subclass of ``int`` passes ``isinstance``, ``range`` and the argument parsers in C++, which a proxy does not.
Arithmetic is written to the graph. Where Python must have a definite answer (a comparison, a dictionary key) the answer
becomes a guard.

What is computed with a number goes by its ``exact`` value. Code in C takes the value of the ``int`` itself, unseen: as
an index, or in a format. A number may show another one there, so that such code gives itself away.
"""

from __future__ import annotations

import functools
import math
import operator
import sys
import types
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import fx


class Ledger(Protocol):
    """Where a recorded number tells what is done with it."""

    def compute(self, function: Callable[..., Any], operands: tuple[Any, ...], result: Any) -> Any:
        """Write ``function(*operands)`` down and return ``result`` tied to it."""

    def decide(self, function: Callable[..., Any], operands: tuple[Any, ...], result: Any) -> Any:
        """Write a guard that ``function(*operands)`` is ``result`` and return ``result``."""

    def pin(self, number: Any, plain: Any) -> None:
        """Write a guard that ``number`` is ``plain``."""

    def tell(self, number: Any, plain: Any, frame: types.FrameType) -> None:
        """Write a guard that ``number`` is ``plain``, if the code in ``frame`` may go by a text of it."""

    def element(self, source: fx.Node, index: int, value: int) -> fx.Node:
        """Write ``source[index]`` down."""


class RecordedInt(int):
    """An ``int`` that remembers the node it came from."""

    node: fx.Node
    ledger: Ledger
    exact: int
    __class__ = property(lambda self: int)

    def __new__(cls, value: int, node: fx.Node, ledger: Ledger, shown: int | None = None) -> RecordedInt:
        number = super().__new__(cls, value if shown is None else shown)
        number.node, number.ledger, number.exact = node, ledger, value
        return number

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (plain(self),)

    def __copy__(self) -> RecordedInt:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> RecordedInt:
        return self

    def __invert__(self) -> int:
        return -self - 1


class RecordedSize(RecordedInt):
    """An element of a shape, which is written down once somebody asks about it.

    Comparing with a ``torch.Size`` of the model's compares elements in C, past the shape's own methods.
    """

    source: fx.Node
    index: int

    def __new__(cls, value: int, source: Any, index: int, ledger: Any, shown: int | None = None) -> RecordedSize:
        number = int.__new__(cls, value if shown is None else shown)
        number.source, number.index, number.ledger, number.exact = source, index, ledger, value
        return number

    @functools.cached_property
    def node(self) -> fx.Node:  # type: ignore[override]
        """The node that takes the element."""
        return self.ledger.element(self.source, self.index, plain(self))


class RecordedFloat(float):
    """A ``float`` that remembers the node it came from."""

    node: fx.Node
    ledger: Ledger
    exact: float
    __class__ = property(lambda self: float)

    def __new__(cls, value: float, node: fx.Node, ledger: Ledger, shown: float | None = None) -> RecordedFloat:
        number = super().__new__(cls, value if shown is None else shown)
        number.node, number.ledger, number.exact = node, ledger, value
        return number

    def __reduce__(self) -> tuple[Any, ...]:
        return float, (plain(self),)

    def __copy__(self) -> RecordedFloat:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> RecordedFloat:
        return self


class OwnFloat(float):
    """A ``float`` of the code's own, which leaves what is done with it and a recorded number to that.

    Python asks a ``float`` first, which takes any ``int`` for its value: ``0.5 * x.shape[2]`` would go unseen.
    """

    exact: float
    __class__ = property(lambda self: float)

    def __new__(cls, value: float) -> OwnFloat:
        number = super().__new__(cls, value)
        number.exact = value
        return number

    def __reduce__(self) -> tuple[Any, ...]:
        return float, (self.exact,)

    def __copy__(self) -> float:
        return self.exact

    def __deepcopy__(self, memo: dict[int, Any]) -> float:
        return self.exact


RECORDED = (RecordedInt, RecordedFloat)
_PLAIN = (int, float, bool, *RECORDED, OwnFloat)
_ARITHMETIC = ("add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "and_", "or_", "xor", "lshift", "rshift")
_QUESTIONS = ("as_integer_ratio", "bit_length", "bit_count", "to_bytes", "hex", "conjugate")
_UNARY = ("neg", "pos", "abs")
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
_FROM_THE_RIGHT = {"eq": "eq", "ne": "ne", "lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}


def plain(number: Any) -> Any:
    """Strip the memory off a recorded number.

    >>> plain(3)
    3
    """
    return number.exact if isinstance(number, (RecordedInt, RecordedFloat, OwnFloat)) else number


def own(value: Any) -> Any:
    """Make a plain ``float`` one that leaves what is done with it to recorded numbers.

    >>> type(own(0.5) * 2 - 1) is OwnFloat, own(3), own(2.0) == 2.0
    (True, 3, True)
    """
    return OwnFloat(value) if type(value) is float else value


def wrap(value: Any, node: fx.Node, ledger: Ledger, shown: Any = None) -> Any:
    """Tie a plain number to the node that computes it; anything else comes back as it is."""
    if type(value) is int:
        return RecordedInt(value, node, ledger, shown)
    if type(value) is float:
        return RecordedFloat(value, node, ledger, shown)
    return value


def other_than(value: float, wish: str) -> Any:
    """Return another number than one, by what it is to be: larger, smaller, or not a number; None for any other wish.

    >>> other_than(3, "larger"), other_than(3, "smaller"), other_than(0.5, "larger"), other_than(3, "pinned")
    (4, -4, inf, None)
    """
    larger = value + 1 if isinstance(value, int) else math.inf
    return {"larger": larger, "smaller": -larger, "not a number": math.nan if isinstance(value, float) else None}.get(
        wish
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, torch.SymInt)


def _arithmetic(name: str, swapped: bool) -> Callable[[Any, Any], Any]:
    function = getattr(operator, name)

    def method(self: Any, other: Any, *modulus: Any) -> Any:
        left, right = (other, self) if swapped else (self, other)
        if modulus:  # of pow
            self.ledger.pin(self, plain(self))
            return pow(plain(left), plain(right), *modulus)
        if _is_number(other) and type(other) in _PLAIN:
            return self.ledger.compute(function, (left, right), function(plain(left), plain(right)))
        # A number of NumPy's makes others of NumPy's, which remember nothing.
        if _is_number(other) or isinstance(other, (list, tuple, str, bytes)):
            self.ledger.pin(self, plain(self))
            return function(plain(left), plain(right))
        return NotImplemented

    return method


def _unary(name: str) -> Callable[[Any], Any]:
    function = getattr(operator, name)
    return lambda self: self.ledger.compute(function, (self,), function(plain(self)))


def _comparison(name: str) -> Callable[[Any, Any], Any]:
    function = getattr(operator, name)

    def method(self: Any, other: Any) -> Any:
        if _is_number(other):
            return self.ledger.decide(function, (self, other), function(plain(self), plain(other)))
        return NotImplemented

    return method


def _divmod(self: Any, other: Any) -> Any:
    return self // other, self % other


def _rdivmod(self: Any, other: Any) -> Any:
    return other // self, other % self


def _rounding(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *digits: self.ledger.compute(function, (self, *digits), function(plain(self), *digits))


def _exact(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Give Python the exact number it insists on, and pin it."""

    def method(self: Any) -> Any:
        self.ledger.pin(self, plain(self))
        return convert(plain(self))

    return method


def _question(name: str) -> Callable[..., Any]:
    """Answer from the exact number, and pin it."""

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.ledger.pin(self, plain(self))
        return getattr(plain(self), name)(*args, **kwargs)

    return method


def is_whole(number: float) -> bool:
    """Say whether a number is a whole one.

    >>> is_whole(4.0), is_whole(4.5)
    (True, False)
    """
    return float(number).is_integer()


def _truth(self: Any) -> Any:
    return self.ledger.decide(bool, (self,), bool(plain(self)))


def _is_integer(self: Any) -> Any:
    return self.ledger.decide(is_whole, (self,), is_whole(plain(self)))


def _text(show: Callable[..., str]) -> Callable[..., str]:
    """Give a text, in which code may look something up."""

    def method(self: Any, *spec: str) -> str:
        self.ledger.tell(self, plain(self), sys._getframe(1))
        return show(plain(self), *spec)

    return method


def _teach(kind: type) -> None:
    for name in _ARITHMETIC if kind is RecordedInt else _ARITHMETIC[:7]:
        magic = name.rstrip("_")
        setattr(kind, f"__{magic}__", _arithmetic(name, swapped=False))
        setattr(kind, f"__r{magic}__", _arithmetic(name, swapped=True))
    for name, method in (("divmod", _divmod), ("rdivmod", _rdivmod)):
        setattr(kind, f"__{name}__", method)
    for name in _UNARY:
        setattr(kind, f"__{name}__", _unary(name))
    for name in _COMPARISONS:
        setattr(kind, f"__{name}__", _comparison(name))
    for name, function in (("floor", math.floor), ("ceil", math.ceil), ("trunc", math.trunc), ("round", round)):
        setattr(kind, f"__{name}__", _rounding(function))
    for name, convert in (("int", int), ("float", float), ("hash", hash)):
        setattr(kind, f"__{name}__", _exact(convert))
    setattr(kind, "__bool__", _truth)  # noqa: B010
    for name in _QUESTIONS:
        if hasattr(kind, name):
            setattr(kind, name, _question(name))
    setattr(kind, "is_integer", _is_integer)  # noqa: B010  a type cannot be told of a method that it is given here
    for name, show in (("repr", repr), ("str", str), ("format", format)):
        setattr(kind, f"__{name}__", _text(show))


def _leaving_it(name: str, from_the_right: str) -> Callable[[Any, Any], Any]:
    usual = getattr(float, name)

    def method(self: OwnFloat, other: Any) -> Any:
        return getattr(other, from_the_right)(self.exact) if isinstance(other, RECORDED) else own(usual(self, other))

    return method


def _staying_own(name: str) -> Callable[..., Any]:
    usual = getattr(float, name)
    return lambda self, *others: own(usual(self, *others))


def _teach_own() -> None:
    for name in _ARITHMETIC[:7]:
        setattr(OwnFloat, f"__{name}__", _leaving_it(f"__{name}__", f"__r{name}__"))
        setattr(OwnFloat, f"__r{name}__", _staying_own(f"__r{name}__"))
    for name in _UNARY:
        setattr(OwnFloat, f"__{name}__", _staying_own(f"__{name}__"))
    for name, other in _FROM_THE_RIGHT.items():
        setattr(OwnFloat, f"__{name}__", _leaving_it(f"__{name}__", f"__{other}__"))
    setattr(OwnFloat, "__hash__", float.__hash__)  # noqa: B010  a class that compares has none else


_teach(RecordedInt)
_teach(RecordedFloat)
_teach_own()
