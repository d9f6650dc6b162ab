"""Write the source of one random class, statement by statement, knowing the shape of every variable."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]
Dims = tuple[int, ...]
T = TypeVar("T")
BOX = "self.box = BOX"

BATCH = 2
# Names that operations have too, so that a number has to tell them apart.
_TRICKY = ("add", "mul", "relu_1", "getitem", "conv_1", "add_1", "cat", "y")


@dataclass(frozen=True)
class Value:
    """A tensor at hand: an expression, and its sizes behind the batch at the example's size."""

    name: str
    dims: Dims
    writable: bool = True

    @property
    def is_variable(self) -> bool:
        return self.name.isidentifier()


@dataclass(frozen=True)
class Child:
    """A call of a child: how to reach it, what it takes, and what it gives by suffix (``""``, ``[0]``, ``['a']``)."""

    reached: str
    takes: tuple[Dims, ...]
    gives: tuple[Value, ...]


@dataclass
class Program:
    """The classes written so far."""

    draw: Draw
    grad: bool
    shares: bool = False
    classes: list[str] = field(default_factory=list)
    signatures: list[tuple[str, tuple[Dims, ...], tuple[Value, ...]]] = field(default_factory=list)


class Writer:
    """Writes one class."""

    def __init__(self, program: Program, arguments: Sequence[Value], depth: int) -> None:
        self.program = program
        self.depth = depth
        self.values = list(arguments)
        self.children: list[Child] = []
        self.setup: list[str] = []
        self.lines: list[str] = []
        self.methods: list[str] = []
        self.indent = 0
        self._attributes: set[str] = set()
        self._variables = 0

    # -- draws ---------------------------------------------------------------------------------------------------------

    def among(self, options: Sequence[T]) -> T:
        return self.program.draw(st.sampled_from(options))

    def number(self, low: int, high: int) -> int:
        return int(self.program.draw(st.integers(low, high)))

    def one_in(self, count: int) -> bool:
        return self.number(1, count) == count

    def pick(self, *ranks: int, writable: bool = False) -> Value | None:
        """Choose a value of one of some ranks, the newest more often than others."""
        fit = [held for held in self.values if not ranks or len(held.dims) in ranks]
        fit = [held for held in fit if held.writable or not writable]
        return self.among([fit[-1], fit[-1], *fit[::-1]]) if fit else None

    def like(self, value: Value) -> Value:
        """Choose a value of the same shape, which may be the same one."""
        return self.among([held for held in self.values if held.dims == value.dims][::-1])

    # -- text ----------------------------------------------------------------------------------------------------------

    def line(self, text: str) -> None:
        self.lines.append("    " * self.indent + text)

    def attribute(self, stem: str) -> str:
        """Choose a name for an attribute."""
        taken = self._attributes
        free = [name for name in _TRICKY if name not in taken]
        count = sum(name.rstrip("0123456789") == stem for name in taken)
        plain = f"{stem}{count or ''}"
        name = self.among(free) if free and self.one_in(12) else plain
        taken.add(name)
        return name

    def child(self, constructor: str, takes: tuple[Dims, ...], gives: tuple[Value, ...]) -> Child:
        """Add a child, or the same one under a second name."""
        stem = re.sub(r"^nn\.|[\d(].*", "", constructor, flags=re.DOTALL).lower()
        name = self.attribute(stem)
        self.setup.append(f"self.{name} = {constructor}")
        made = Child(f"self.{name}", takes, gives)
        self.children.append(made)
        if self.one_in(16):
            self.setup.append(f"self.{self.attribute('again')} = self.{name}")
        return made

    def share_box(self) -> None:
        """Hold what modules share in plain Python."""
        self.program.shares = True
        if BOX not in self.setup:
            self.setup.append(BOX)

    def buffer(self, stem: str, initial: str) -> str:
        name = self.attribute(stem)
        self.setup.append(f'self.register_buffer("{name}", {initial})')
        return f"self.{name}"

    # -- variables -----------------------------------------------------------------------------------------------------

    def variable(self) -> str:
        self._variables += 1
        return f"v{self._variables}"

    def keep(self, expression: str, dims: Dims, source: Value | None = None, writable: bool = True) -> Value:
        """Give an expression a name: a new one, or that of the value it was made from."""
        name = source.name if source is not None and self._may_replace(source, dims) else self.variable()
        self.line(f"{name} = {expression}")
        return self.know(Value(name, dims, writable or not self.program.grad))

    def know(self, value: Value) -> Value:
        self.values = [held for held in self.values if held.name != value.name]
        self.values.append(value)
        return value

    def _may_replace(self, source: Value, dims: Dims) -> bool:
        # What follows an `if` counts on every variable having its shape on both sides.
        return source.is_variable and (self.indent == 0 or source.dims == dims) and self.one_in(2)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Write the statements of an ``if``, ``for`` or ``with``; variables made in it are forgotten."""
        self.line(head)
        before, self.indent = list(self.values), self.indent + 1
        count = len(self.lines)
        yield
        if len(self.lines) == count:
            self.line("pass")
        self.values, self.indent = before, self.indent - 1

    # -- the class -----------------------------------------------------------------------------------------------------

    def text(self, name: str, arguments: str) -> str:
        setup = "".join(f"        {line}\n" for line in self.setup)
        body = "".join(f"        {line}\n" for line in self.lines)
        methods = "".join(f"\n{method}" for method in self.methods)
        return (
            f"class {name}(nn.Module):\n    def __init__(self):\n        super().__init__()\n{setup}\n"
            f"    def forward(self, {arguments}):\n{body}{methods}"
        )
