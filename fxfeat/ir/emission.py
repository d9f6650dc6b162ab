"""What is emitted for a request: source, outputs, checks, and what is used of the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import fx

from fxfeat.errors import FxfeatError
from fxfeat.ir.example import Sizes
from fxfeat.ir.feature import Origin
from fxfeat.ir.guard import Reading
from fxfeat.ir.tap import TappedCall, TappedModule
from fxfeat.ir.tree import Steps, spell
from fxfeat.ir.value_replacement import Replacement

ReturnType = Literal["dict", "tuple", "list"]
"""In what form an extractor returns its values."""


@dataclass(frozen=True)
class Source:
    """Emitted source, the objects its global names stand for, and the calls in it that run a module whole.

    ``returned`` is how each value is written in its last statement, by key.
    """

    text: str
    namespace: dict[str, Any] = field(default_factory=dict)
    tapped: tuple[TappedCall, ...] = ()
    returned: dict[str, str] = field(default_factory=dict)

    @property
    def runs_whole(self) -> bool:
        """Whether the whole model runs, with nothing of it written out."""
        return any(not call.path for call in self.tapped)


def list_tapped(*sources: Source) -> tuple[TappedModule, ...]:
    """List the modules that sources run whole, and why."""
    calls = (call for source in sources for call in source.tapped)
    return tuple(dict.fromkeys(TappedModule(call.path, call.reason) for call in calls))


@dataclass(frozen=True)
class UsedState:
    """Paths of the submodules and tensors that emitted code uses."""

    modules: frozenset[str]
    tensors: frozenset[str]
    containers: frozenset[str] = frozenset()

    def __or__(self, other: UsedState) -> UsedState:
        return UsedState(self.modules | other.modules, self.tensors | other.tensors, self.containers | other.containers)


@dataclass(frozen=True)
class Row:
    """One output of an extractor: its key, the name asked for, and what the example gave."""

    key: str
    name: str
    shape: Any
    dtype: Any
    origin: Origin | None = None


@dataclass(frozen=True)
class Check:
    """A decision that is checked at run time: where the model took it, and what it was."""

    place: str
    expected: Any

    def __str__(self) -> str:
        return f"{self.place} is {self.expected!r}"


State = Literal["free", "checked", "fixed"]


@dataclass(frozen=True)
class DimStatus:
    """How one size of an input may vary: freely, where the checks pass, or not at all.

    The size is ``shape[dimension]`` of the tensor at ``steps`` from the argument ``parameter``; ``axis`` is what it is
    called: batch, height, width, depth, time, length or size. ``runs`` says whether the model was seen to run at
    others, ``ran_at`` is one of them.
    """

    parameter: str
    steps: Steps
    dimension: int
    size: int
    axis: str
    state: State
    runs: bool = True
    ran_at: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.parameter}{spell(self.steps)}.shape[{self.dimension}] ({self.axis} {self.size}) is {self.state}"


@dataclass(frozen=True)
class Purity:
    """When a run of a model changes nothing that the model keeps, but attributes that its first run sets up.

    ``sizes`` are those of the inputs, ``changing`` the paths of the modules with such attributes, ``hooks`` where
    hooks are, and their names.
    """

    sizes: Sizes
    changing: tuple[str, ...]
    hooks: frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Emission:
    """Everything emitted for one mode.

    ``told`` says that its code may have gone by a size of an input, ``told_dtypes`` by a dtype.
    """

    source: Source
    rows: tuple[Row, ...]
    guards: tuple[Check, ...]
    opened: tuple[str, ...]
    used_state: UsedState
    constants: dict[str, torch.Tensor] = field(default_factory=dict)
    graph: fx.Graph | None = None
    kind: str = "meta"
    leaves_opened: frozenset[str] = frozenset()
    freedoms: tuple[DimStatus, ...] = ()
    purity: Purity | None = None
    writes_parameters: bool = False
    told: bool = True
    told_dtypes: bool = True
    readings: frozenset[Reading] = frozenset()
    replacements: tuple[Replacement, ...] = ()

    @property
    def tapped(self) -> tuple[TappedCall, ...]:
        """The calls that run a module whole, and what is copied out of it."""
        return self.source.tapped


@dataclass(frozen=True)
class ModeVariants:
    """The emissions of one extractor.

    ``mixed`` is for a model whose modules were in other modes than its own ``train()`` or ``eval()`` sets; it holds
    until either is called. A mode that could not be recorded, or lacks a name, holds the error instead. ``method`` is
    the model's method that they are of.
    """

    train: Emission | FxfeatError
    eval: Emission | FxfeatError
    mixed: Emission | None = None
    method: str = "forward"

    @property
    def emissions(self) -> tuple[Emission, ...]:
        """What was emitted, for train mode, eval mode and mixed modes, as far as there is any."""
        return tuple(form for form in (self.train, self.eval, self.mixed) if isinstance(form, Emission))

    def map(self, change: Callable[[Emission], Emission]) -> ModeVariants:
        """Change each emission, and leave errors as they are."""

        def changed(form: Any) -> Any:
            return change(form) if isinstance(form, Emission) else form

        return replace(self, train=changed(self.train), eval=changed(self.eval), mixed=changed(self.mixed))
