"""What one run of a model leaves behind: a graph of every call, and a span for every module call.

Invariants (``fxfeat.record.lint`` checks them):

- a node's ``facts(node).position`` is its index in ``graph.nodes``;
- spans nest: a span's nodes lie inside its parent's, and span 0 is the root's;
- a node is owned by the innermost span around it.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import fx

from fxfeat.record.structure import Steps

Kind = Literal["meta", "fake", "real"]
Values = Literal["as they are", "larger", "smaller", "pinned"]
"""What becomes of numbers that code reads out of tensors: others are given in their place, or they are checked."""

Gradients = Literal["checked", "on", "off"]
"""What code is told that asks whether gradients are on: how it is, which is checked, or always the same."""

Twins = Literal["apart", "together", "checked"]
"""What inputs of one shape are to code: a tensor each, one and the same, or as they are, which is checked."""

Storage = object
"""Identity of a piece of memory. Two tensors that share memory share it; ``RNG`` stands for the random state."""

RNG: Storage = "rng"
DRAWN = "random numbers are drawn from Python or NumPy"
Address = tuple[int, ...]
"""The number of a call among all that the module around it does, after that module's own address.

Unlike a position, it stays the same where a module before it runs more calls or fewer on another input.
"""


@dataclass(frozen=True)
class Answers:
    """What a model's code is told where another run may tell it something else."""

    values: Values = "as they are"
    gradients: Gradients = "checked"
    twins: Twins = "apart"


AS_IT_IS = Answers()
"""Code is told what holds for the run that is recorded."""


@dataclass(frozen=True)
class TensorFacts:
    """Shape, dtype and strides that a tensor had when it was produced."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Context:
    """A region of code that changes how calls inside it run, such as ``torch.autocast("cpu")``."""

    factory: Any
    arguments: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Look:
    """A hook that only looks on: what it is called in messages, and whether it did nothing while recording."""

    hook: str
    idle: bool


@dataclass(frozen=True)
class Facts:
    """What is known of one node besides its fx fields.

    ``heard`` is the name of the torch function that was called, and the number of calls of that name before it in the
    same code of the same module call. ``restless`` marks a call that changes what Python holds.
    """

    position: int
    span: int
    value: Any = None
    reads: frozenset[Storage] = frozenset()
    writes: frozenset[Storage] = frozenset()
    storages: frozenset[Storage] = frozenset()
    draws: bool = False
    contexts: tuple[Context, ...] = ()
    same_as: fx.Node | None = None
    constant: bool = False
    passed: bool = False
    counted: bool = True
    unwritable: str | None = None
    look: Look | None = None
    container: bool = False
    address: Address = ()
    guessed: frozenset[Storage] = frozenset()
    heard: tuple[str, int] | None = None
    restless: bool = False


@dataclass(frozen=True)
class Opaque:
    """An argument that cannot be written down, and where it came from if a span returned it."""

    type_name: str
    span: int | None = None
    steps: Steps = ()


@dataclass(frozen=True)
class Build:
    """A dataclass instance to be built again from its written-down fields."""

    factory: type
    fields: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class ModuleAt:
    """A module of the model, passed as an argument."""

    path: str


@dataclass(frozen=True)
class ContainerAt:
    """What an extractor has in place of an opened module, passed to a hook."""

    path: str


@dataclass(frozen=True)
class Span:
    """One call of one module: what went in, what ran inside, what came out.

    ``module`` is the module's identity. ``entered`` marks a leaf that was entered all the same, ``altered`` one whose
    result is an object that later code changes.
    """

    index: int
    path: str
    call: int
    parent: int | None
    start: int
    module: int
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    leaf: bool = False
    stop: int = -1
    result: Any = None
    leaves: tuple[tuple[Steps, fx.Node], ...] = ()
    entered: bool = False
    altered: bool = False
    contexts: tuple[Context, ...] = ()


@dataclass(frozen=True)
class Guard:
    """A decision that the model's Python took on a size or a value."""

    node: fx.Node
    expected: Any
    where: str
    source: str
    span: int = 0
    position: int = 0


@dataclass(frozen=True)
class Refusal:
    """Why the code of a span cannot be written out from some position on.

    ``memory`` is the model's own memory that is concerned, which the next call reads too.
    """

    reason: str
    span: int
    position: int
    memory: frozenset[Storage] = frozenset()


@dataclass(frozen=True)
class Setting:
    """Something that code in a span changed about a module of the model, other than its tensors' values."""

    path: str
    name: str
    span: int
    position: int
    where: str


@dataclass(frozen=True)
class Recording:
    """Everything one run of a model left behind.

    ``writes_state`` says that the run wrote to tensors or settings that the model keeps, or that no one can tell;
    ``changed`` and ``altered`` are what it changed in Python.
    """

    graph: fx.Graph
    spans: tuple[Span, ...]
    guards: tuple[Guard, ...]
    result: Any
    kind: Kind
    training: bool
    root: torch.nn.Module
    tensors: dict[str, Any]
    persistent: frozenset[Storage]
    opened: frozenset[str]
    signature: Any
    dtype_reads: tuple[tuple[fx.Node, torch.dtype], ...] = ()
    refusals: tuple[Refusal, ...] = ()
    settings: tuple[Setting, ...] = ()
    changed: tuple[tuple[str, str], ...] = ()
    altered: frozenset[int] = frozenset()
    writes_state: bool = True
    reads_values: bool = False
    asks_gradients: bool = False
    writes_parameters: bool = False

    @property
    def is_stateless(self) -> bool:
        """Whether the run changed nothing that the model keeps, as another on inputs of these sizes will not."""
        return not (self.changed or self.altered or self.writes_state)

    @functools.cached_property
    def nodes(self) -> list[fx.Node]:
        """The nodes by position."""
        return list(self.graph.nodes)


def same(value: Any) -> Any:
    """Stand for a value that a module returned as it was given; never left in an emitted graph."""
    return value


def facts(node: fx.Node) -> Facts:
    """Return what the recorder knows of ``node``."""
    return node.meta["facts"]


def amend(node: fx.Node, **changes: Any) -> None:
    """Replace some of a node's facts."""
    node.meta["facts"] = dataclasses.replace(facts(node), **changes)


def measure(tensor: torch.Tensor) -> TensorFacts:
    """Note the shape, dtype and strides of ``tensor``; an unstrided one has no strides."""
    strided = tensor.layout == torch.strided and not tensor.is_nested
    return TensorFacts(tuple(tensor.shape), tensor.dtype, tuple(tensor.stride()) if strided else ())


def ancestors(spans: tuple[Span, ...], index: int) -> list[int]:
    """List the spans around span ``index``, innermost first, itself left out."""
    found: list[int] = []
    parent = spans[index].parent
    while parent is not None:
        found.append(parent)
        parent = spans[parent].parent
    return found
