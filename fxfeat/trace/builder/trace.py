"""All that a trace has taken down so far: a graph, and beside it small parts with one duty each."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, is_grad_enabled, nn
from torch.nn.attention import SDPBackend

from fxfeat.analysis.aliases import Tie
from fxfeat.ir.assumptions import AS_IT_IS, Assumptions
from fxfeat.ir.guard import Answer, AttributeRead, AttributeWrite, Guard, Unsupported
from fxfeat.ir.module_call import ModuleCall
from fxfeat.ir.node_meta import RNG, CallPath, Context, Storage
from fxfeat.ir.tree import Steps
from fxfeat.ir.value_replacement import Replaced, Replacement
from fxfeat.isolation.torch_settings import Switches, devices_entered, kernels_of_attention
from fxfeat.trace.builder.draws import Draws
from fxfeat.trace.builder.given_containers import Contents
from fxfeat.trace.fake_tensors import FakeTensors


@dataclass(frozen=True)
class ModelParts:
    """What the model is made of before it runs, most of it by identity.

    ``state`` tells a tensor's first path and whether it is a parameter. ``shared_memory`` maps memory that several
    tensors look at to one tensor over all of it. ``reachable`` are the tensors that code could have got hold of, where
    real ones run; ``existing`` are all that there were, where that had to be asked.
    """

    device: torch.device
    state: dict[int, tuple[str, bool]]
    parameters: dict[str, nn.Parameter]
    paths: dict[int, list[str]]
    shared_memory: dict[Storage, torch.Tensor]
    reachable: frozenset[int] | None = None
    existing: frozenset[int] | None = None


@dataclass
class Numbering:
    """How many nodes there are, and how many events in each module call; what is not counted gets no name."""

    position: int = 0
    counting: bool = True
    events: Counter[CallPath] = field(default_factory=Counter)


@dataclass
class CallStack:
    """The module calls so far, which of them are open, and whether what they call is written down.

    ``occurrences`` counts the calls of each torch function in each module call. ``whole_depth`` is how many calls that
    are written as one node are running inside each other.
    """

    module_calls: list[ModuleCall] = field(default_factory=list)
    opened: list[int] = field(default_factory=list)
    call_paths: dict[int, CallPath] = field(default_factory=dict)
    occurrences: Counter[tuple[int, str]] = field(default_factory=Counter)
    whole_depth: int = 0
    active: bool = True
    thread: int = field(default_factory=threading.get_ident)

    @property
    def live(self) -> bool:
        """Whether calls are being written down, which they are not inside a whole call."""
        return self.active and self.whole_depth == 0

    @property
    def active_here(self) -> bool:
        """Whether the model is running, and in this thread."""
        return self.active and threading.get_ident() == self.thread

    @property
    def live_here(self) -> bool:
        """Whether calls are being written down, and come from this thread."""
        return self.live and threading.get_ident() == self.thread

    @property
    def owner(self) -> int:
        """The innermost open module call."""
        return self.opened[-1] if self.opened else 0


@dataclass
class SettingsInForce:
    """The regions of code that calls run in, and torch's settings when the run began and when each call was opened.

    ``gradients`` says whether the user has them on, ``never`` that the model runs without them only.
    """

    contexts: list[Context] = field(default_factory=list)
    modes: list[str] = field(default_factory=list)
    switches: dict[int, Switches] = field(default_factory=dict)
    kernels: list[SDPBackend] = field(default_factory=kernels_of_attention)
    devices: list[torch.device] = field(default_factory=devices_entered)
    gradients: bool = field(default_factory=is_grad_enabled)
    never: bool = False


@dataclass
class Decisions:
    """What Python is told, and what it went by.

    ``answers`` are what it was told that was no tensor, ``reads`` the attributes of modules that were read, by module
    call, module and name, ``contents`` what was in those that are lists or dicts. ``unranked`` are the inputs whose
    number of dimensions is not guarded yet. ``drawn`` are nodes whose numbers were drawn, ``from_data`` those whose
    numbers or sizes come from data, of the types ``reads_values``; ``deciding`` are the module calls that decided on a
    size or a value, ``random`` the nodes whose tensors depend on torch's random numbers. ``squeezes`` says that ranks
    may depend on sizes, ``goes_by_values`` that an operator looked at data. ``same_in_training`` says that nothing was
    seen to go by the mode but modules of torch's, whose effects tell what they do in train mode.
    """

    assumptions: Assumptions = AS_IT_IS
    guards: list[Guard] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    dtype_reads: list[Guard] = field(default_factory=list)
    reads: dict[tuple[int, int, str], AttributeRead] = field(default_factory=dict)
    contents: dict[tuple[int, int, str], Contents] = field(default_factory=dict)
    drawn: set[fx.Node] = field(default_factory=set)
    from_data: set[fx.Node] = field(default_factory=set)
    deciding: set[int] = field(default_factory=set)
    random: set[fx.Node] = field(default_factory=set)
    unranked: list[torch.Tensor] = field(default_factory=list)
    squeezes: bool = False
    reads_values: set[type] = field(default_factory=set)
    goes_by_values: bool = False
    asks_gradients: bool = False
    same_in_training: bool = True


@dataclass
class Obstacles:
    """Why code cannot be written out, or not be trusted.

    ``unchanged`` are attributes that the code set to what they were. ``catching`` are the regions that the code is in
    which end an error; ``caught`` is where one came up that it went on after.
    """

    unsupported: list[Unsupported] = field(default_factory=list)
    attribute_writes: list[AttributeWrite] = field(default_factory=list)
    unchanged: list[AttributeWrite] = field(default_factory=list)
    escapes: list[str] = field(default_factory=list)
    catching: list[Any] = field(default_factory=list)
    failure: BaseException | None = None
    caught: str = ""


@dataclass(frozen=True)
class FakeCopies:
    """The fake tensors of real ones, by identity, and the other way round.

    ``bases`` are copies of shared memory, ``fresh`` are tensors that code makes at each call. ``alive`` holds on to
    objects so that their identities are not given to others.
    """

    copies: dict[int, torch.Tensor] = field(default_factory=dict)
    originals: dict[int, torch.Tensor] = field(default_factory=dict)
    bases: dict[int, torch.Tensor] = field(default_factory=dict)
    fresh: set[int] = field(default_factory=set)
    alive: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Provenance:
    """Where each tensor and object comes from, by identity.

    ``pending`` are tensors inside a result, with the steps that lead there, which nobody has used yet. ``objects``
    come from a node or a module call, and ``contents`` is what they held then. ``handed_back`` maps a tensor's alias
    to the tensor that a call returned as it was given. ``constants`` are what the graph carries, by name.
    """

    nodes: dict[int, fx.Node] = field(default_factory=dict)
    produced_at: dict[int, int] = field(default_factory=dict)
    pending: dict[int, tuple[fx.Node, Steps]] = field(default_factory=dict)
    objects: dict[int, tuple[fx.Node | int, Steps]] = field(default_factory=dict)
    contents: dict[int, Any] = field(default_factory=dict)
    handed_back: dict[int, torch.Tensor] = field(default_factory=dict)
    constants: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass
class Effects:
    """What a call, or all calls inside a whole one, read, wrote and drew; whether data say how large results are.

    ``in_training`` is the memory that it would write to besides in train mode.
    """

    reads: set[Storage] = field(default_factory=set)
    writes: set[Storage] = field(default_factory=set)
    draws: bool = False
    sized_by_data: bool = False
    in_training: set[Storage] = field(default_factory=set)

    def add(self, other: Effects) -> None:
        """Take in what another call did."""
        self.reads |= other.reads
        self.writes |= other.writes
        self.draws |= other.draws
        self.sized_by_data |= other.sized_by_data
        self.in_training |= other.in_training

    def note_draw(self) -> None:
        """Take the next number of a random state, which every later draw depends on."""
        self.draws = True
        self.reads.add(RNG)
        self.writes.add(RNG)


@dataclass
class Memory:
    """What was done to memory.

    ``persistent`` outlives the run; ``strangers`` is the part of it that is none of the model's. ``versions`` are the
    counters of tensors when they were last seen. ``wrapping`` maps memory of vmap's tensors to what they stand for.
    ``rebound`` tells for a buffer that code replaced whether by another tensor. ``effects`` are those of the whole call
    that is running.
    """

    persistent: set[Storage] = field(default_factory=set)
    strangers: set[Storage] = field(default_factory=set)
    written: set[Storage] = field(default_factory=set)
    versions: dict[Storage, dict[int, int]] = field(default_factory=dict)
    wrapping: dict[Storage, Storage] = field(default_factory=dict)
    ties: list[Tie] = field(default_factory=list)
    rebound: dict[tuple[str, str], bool] = field(default_factory=dict)
    effects: Effects = field(default_factory=Effects)
    draws: Draws = field(default_factory=Draws)


@dataclass(frozen=True)
class Watch:
    """Nodes whose values somebody wants to see, and the values."""

    call_paths: frozenset[CallPath] = frozenset()
    values: dict[CallPath, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Replacing:
    """Values that go through functions of the user's, and those that did.

    ``returned`` tells the module and the number of its call, ``computed`` also a torch function that its code calls,
    and the number of that call.
    """

    returned: dict[tuple[int, int], list[Replacement]] = field(default_factory=dict)
    computed: dict[tuple[int, int, str, int], list[Replacement]] = field(default_factory=dict)
    done: list[Replaced] = field(default_factory=list)


@dataclass(frozen=True)
class Trace:
    """One run of a model, as far as it has been written down."""

    model: ModelParts
    fake_tensors: FakeTensors
    decisions: Decisions
    settings: SettingsInForce
    watch: Watch = field(default_factory=Watch)
    replacing: Replacing = field(default_factory=Replacing)
    graph: fx.Graph = field(default_factory=fx.Graph)
    numbering: Numbering = field(default_factory=Numbering)
    calls: CallStack = field(default_factory=CallStack)
    obstacles: Obstacles = field(default_factory=Obstacles)
    fakes: FakeCopies = field(default_factory=FakeCopies)
    provenance: Provenance = field(default_factory=Provenance)
    memory: Memory = field(default_factory=Memory)
