"""The graph being written: nodes, module calls, guards and the regions that calls run in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, is_grad_enabled, is_inference_mode_enabled

from fxfeat.analysis.aliases import Tie
from fxfeat.ir.assumptions import AS_IT_IS
from fxfeat.ir.guard import (
    AttributeWrite,
    Guard,
    Unsupported,
)
from fxfeat.ir.module_call import ModuleCall
from fxfeat.ir.node_meta import (
    DRAWN,
    RNG,
    CallPath,
    Context,
    NodeMeta,
    Storage,
    TensorMeta,
    meta_of,
)
from fxfeat.ir.source_lines import model_line
from fxfeat.ir.tree import Steps
from fxfeat.isolation.torch_settings import (
    Switches,
    attention_context,
    devices_entered,
    kernels_of_attention,
    name_changes,
    read_switches,
)
from fxfeat.trace.builder.draws import Draws
from fxfeat.trace.fake_tensors import FakeTensors


@dataclass
class Effects:
    """What the calls inside a leaf read, wrote and drew, or one call, which is observed from outside."""

    reads: set[Storage] = field(default_factory=set)
    writes: set[Storage] = field(default_factory=set)
    draws: bool = False
    occurrence: tuple[str, int] | None = None

    def note_draw(self) -> None:
        """Take the next number of a random state, which every later draw depends on."""
        self.draws = True
        self.reads.add(RNG)
        self.writes.add(RNG)


class GraphWriter:
    """Appends nodes to a graph, and knows where in the model they ran."""

    def __init__(self, fake_tensors: FakeTensors, state: dict[int, tuple[str, bool]], device: torch.device) -> None:
        super().__init__()
        self.active = True
        self.graph = fx.Graph()
        self.fake_tensors = fake_tensors
        self.device = device
        self.module_calls: list[ModuleCall] = []
        self.stack: list[int] = []
        self.guards: list[Guard] = []
        self.unsupported: list[Unsupported] = []
        self.attribute_writes: list[AttributeWrite] = []
        self.drawn: set[fx.Node] = set()
        self.contexts: list[Context] = []
        self.constants: dict[str, torch.Tensor] = {}
        self.persistent: set[Storage] = set()
        self.fresh: set[int] = set()
        self.known: frozenset[int] | None = None
        self.there: frozenset[int] | None = None
        self.strangers: set[Storage] = set()
        self.shared: dict[Storage, torch.Tensor] = {}
        self.written: set[Storage] = set()
        self.dtype_reads: list[tuple[fx.Node, torch.dtype]] = []
        self.failure: BaseException | None = None
        self.caught = ""
        self.escapes: list[str] = []
        self.rebound: dict[tuple[str, str], bool] = {}  # whether to another tensor
        self.ties: list[Tie] = []
        self.modules: dict[int, str] = {}
        self.parameters: dict[str, torch.nn.Parameter] = {}
        self.watched: frozenset[CallPath] = frozenset()
        self.seen: dict[CallPath, Any] = {}
        self.call_paths: dict[int, CallPath] = {}
        self.occurrence: Counter[tuple[int, str]] = Counter()
        self.assumptions = AS_IT_IS
        self.reads_values = self.goes_by_values = self.asks_gradients = False
        self.modes: list[str] = []
        self._kernels = kernels_of_attention()
        self._switches: dict[int, Switches] = {}
        self._devices = devices_entered()
        self._events: Counter[CallPath] = Counter()
        self._state = state
        self._grad = is_grad_enabled()
        self._leaf_depth = 0
        self._counting = True
        self._effects = Effects()
        self._draws = Draws()
        self._position = 0
        self.squeezes = False
        self._versions: dict[Storage, dict[int, int]] = {}
        self._inputs: list[torch.Tensor] = []
        self._twins: list[tuple[fx.Node, torch.Tensor, torch.Tensor]] = []
        self._nodes: dict[int, fx.Node] = {}
        self._born: dict[int, int] = {}
        self._pending: dict[int, tuple[fx.Node, Steps]] = {}
        self._objects: dict[int, tuple[fx.Node | int, Steps]] = {}
        self._contents: dict[int, Any] = {}
        self._bases: dict[int, torch.Tensor] = {}
        self._copies: dict[int, torch.Tensor] = {}
        self._handed_back: dict[int, torch.Tensor] = {}
        self._wrapping: dict[Storage, Storage] = {}
        self._originals: dict[int, torch.Tensor] = {}
        self._alive: list[Any] = []

    @property
    def live(self) -> bool:
        """Whether calls are being written down, which they are not inside a leaf."""
        return self.active and self._leaf_depth == 0

    @property
    def owner(self) -> int:
        """The innermost open module call."""
        return self.stack[-1] if self.stack else 0

    @contextmanager
    def inside_leaf(self) -> Iterator[Effects]:
        """Run calls on fake tensors without writing them down."""
        outer, self._effects = self._effects, Effects()
        self._leaf_depth += 1
        try:
            yield self._effects
        finally:
            self._leaf_depth -= 1
            inner, self._effects = self._effects, outer
            if self._leaf_depth:
                self._effects.reads |= inner.reads
                self._effects.writes |= inner.writes
                self._effects.draws |= inner.draws

    def add(
        self, op: str, target: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, **known: Any
    ) -> fx.Node:
        """Append a node and note what is known of it."""
        if self.caught:
            self._guard_after_an_error()
        self.notice_switches()
        name = known.pop("name", None)
        node = self.graph.create_node(op, target, args, kwargs or {}, name=name)
        known["counted"] = known.get("counted", True) and self._counting
        runs_model = op in ("placeholder", "call_module")
        known.setdefault("constant", not runs_model and all(meta_of(n).constant for n in node.all_input_nodes))
        known["call_path"] = self.next_call_path() if known["counted"] else ()
        node.meta["fxfeat"] = NodeMeta(self._position, self.owner, contexts=self.context(), **known)
        self._position += 1
        return node

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Write calls down that get no names, because they are not the model's own."""
        outer, self._counting = self._counting, False
        try:
            yield
        finally:
            self._counting = outer

    def nodes_from(self, position: int) -> list[fx.Node]:
        """List the nodes written since a position."""
        found: list[fx.Node] = []
        for node in reversed(self.graph.nodes):
            if meta_of(node).position < position:
                break
            found.append(node)
        return found

    def context(self) -> tuple[Context, ...]:
        """Return the regions that calls run in right now."""
        regions = list(self.contexts)
        if is_inference_mode_enabled():
            regions.append(Context(torch.inference_mode))
        elif not is_grad_enabled():
            regions.append(Context(torch.no_grad))
        kernels = kernels_of_attention()
        if kernels != self._kernels:
            regions.append(attention_context(kernels))
        return tuple(regions)

    def next_call_path(self) -> CallPath:
        """Number what happens next."""
        around = self.call_paths[self.stack[-1]] if self.stack else ()
        self._events[around] += 1
        return (*around, self._events[around])

    def next_position(self) -> int:
        """Return the position that the next node will have."""
        return self._position

    def notice_switches(self) -> None:
        """Refuse to write out code that sets, for what it calls, how torch computes everything."""
        now = (*read_switches(), *self.modes)
        before = self._switches.setdefault(self.owner, now)
        if now != before:
            self._switches[self.owner] = now
            self.refuse(f"the code changes {name_changes(before, now)} before {self.line()}")

    def notice_devices(self) -> None:
        """Refuse to write out code that sets the default device for a module that it calls."""
        if devices_entered() != self._devices:
            self.refuse(f"the code changes torch's default device before {self.line()}")

    def keep(self, value: Any) -> None:
        """Hold on to an object so that its identity is not given to another."""
        self._alive.append(value)

    def note_fresh(self, tensor: torch.Tensor) -> None:
        """Note that the model's code made a tensor from what is no tensor, as it does at each call."""
        self.fresh.add(id(tensor))
        self.keep(tensor)

    def _guard_after_an_error(self) -> None:
        """Check the shapes of the inputs: at others the error that the model's code caught may not be raised."""
        where, self.caught = self.caught, ""
        reason = f"an error is caught, which other shapes may not raise, at {where}"
        for node in [held for held in self.graph.nodes if held.op == "placeholder"]:
            if isinstance(meta_of(node).value, TensorMeta):
                shape = self.add("call_function", getattr, (node, "shape"), counted=False)
                self.guard(shape, meta_of(node).value.shape, reason, f"{node.name}.shape")

    def guard(self, node: fx.Node, expected: Any, *place: str) -> None:
        """Keep a decision, with the line of the model that took it; one on a drawn number falls anew each time."""
        if self._is_drawn(node):
            self.refuse(DRAWN)
            return
        where, source = place or model_line()
        self.guards.append(Guard(node, expected, where, source, self.owner, self._position))

    def _is_drawn(self, node: fx.Node) -> bool:
        """Say whether a number comes from one that was drawn, and not from a tensor."""
        waiting = [node] if self.drawn else []
        while waiting:
            held = waiting.pop()
            if held in self.drawn:
                return True
            waiting += [n for n in held.all_input_nodes if not isinstance(meta_of(n).value, TensorMeta)]
        return False

    def line(self) -> str:
        """Say where in the model's code the recording is."""
        where, source = model_line()
        return f"{where}: `{source}`"

    def note_setting(self, path: str, name: str) -> None:
        """Note that the running code changes something about a module, which matters to later calls of it."""
        if self.stack:
            self.attribute_writes.append(AttributeWrite(path, name, self.owner, self._position, self.line()))

    def refuse(self, reason: str, memory: frozenset[Storage] = frozenset()) -> None:
        """Note that the code that is running cannot be written out from here on."""
        self.unsupported.append(Unsupported(reason, self.owner, self._position, memory))
