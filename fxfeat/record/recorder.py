"""Write every torch-level call of a running model into an fx graph."""

from __future__ import annotations

import dataclasses
import enum
import functools
import operator
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fxfeat.record import numbers
from fxfeat.record.calls import attribute_of, spell_call
from fxfeat.record.places import model_line
from fxfeat.record.recording import (
    RNG,
    Build,
    Context,
    Facts,
    Guard,
    ModuleAt,
    Opaque,
    Span,
    Storage,
    amend,
    facts,
    measure,
    same,
)
from fxfeat.record.sequences import RecordedShape, RecordedTuple
from fxfeat.record.stand_ins import StandIns
from fxfeat.record.structure import Steps, copy_tensors, is_named_tuple, tensors, walk

ESCAPED = "escaped"
"""What a guard expects of a value that left torch (``.numpy()``), where nothing can be checked."""

_SILENT = {
    *("requires_grad", "grad", "grad_fn", "is_leaf", "_version", "layout", "names", "_backward_hooks", "output_nr"),
    *("retains_grad", "_base", "_grad", "is_quantized", "is_sparse", "is_nested", "name", "volatile", "__dict__"),
    *("is_complex", "is_floating_point", "is_signed", "is_inference", "_is_view", "is_conj", "is_neg", "_is_zerotensor"),
    *("is_sparse_csr", "is_mkldnn", "untyped_storage", "storage", "_typed_storage", "data_ptr", "is_shared", "is_pinned"),
    *("__repr__", "__format__", "__hash__", "__dir__", "type", "is_same_size", "element_size", "itemsize", "nbytes"),
    *("requires_grad_", "register_hook", "retain_grad", "register_post_accumulate_grad_hook", "_set_grad_enabled"),
    *("_has_compatible_shallow_copy_type", "_is_all_true", "has_names", "is_distributed", "set_default_tensor_type"),
    *("_make_subclass", "__reduce_ex__", "__deepcopy__", "can_cast", "result_type", "promote_types", "get_device"),
    *("_is_functional_tensor", "is_autocast_enabled", "get_autocast_dtype", "_enter_autocast", "_exit_autocast"),
}
_DEVICE_QUESTIONS = ("is_cuda", "is_cpu", "is_xpu", "is_mps", "is_mtia", "is_hpu", "is_ipu", "is_xla", "is_vulkan")
_EXACT = {"__bool__": bool, "__int__": int, "__float__": float, "__index__": operator.index, "__complex__": complex}
_ESCAPES = ("numpy", "__array__", "__dlpack__", "__array_wrap__")
_COUNTED = ("unbind", "split", "tensor_split", "split_with_sizes", "nonzero", "hsplit", "vsplit", "dsplit", "where")
_LITERALS = (
    *(type(None), bool, int, float, complex, str, bytes, type(Ellipsis), torch.dtype, torch.device, torch.layout),
    *(torch.memory_format, enum.Enum, range, type, types.FunctionType, types.BuiltinFunctionType, torch.Generator),
)


class _Draws(TorchDispatchMode):
    """Notice the operations that draw random numbers; the operators themselves say which do."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen = self.seen or torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def _quiet(method: Callable[..., Any]) -> Callable[..., Any]:
    """Keep the recorder's own questions to tensors out of the recording."""

    @functools.wraps(method)
    def quiet(*args: Any, **kwargs: Any) -> Any:
        with torch._C.DisableTorchFunction():
            return method(*args, **kwargs)

    return quiet


@dataclasses.dataclass
class _Effects:
    """What the calls inside a leaf read, wrote and drew."""

    reads: set[Storage] = dataclasses.field(default_factory=set)
    writes: set[Storage] = dataclasses.field(default_factory=set)
    draws: bool = False


class Recorder(TorchFunctionMode):
    """The mode under which a model runs once.

    Values are tied to nodes by the identity of the stand-in that holds them. A real tensor (a parameter, a buffer, a
    constant) is replaced by its stand-in whenever it enters a call, so nothing the model owns is ever computed on.
    """

    def __init__(self, stand_ins: StandIns, state: dict[int, tuple[str, bool]], device: torch.device) -> None:
        super().__init__()
        self.active = True
        self.graph = fx.Graph()
        self.stand_ins = stand_ins
        self.device = device
        self.spans: list[Span] = []
        self.stack: list[int] = []
        self.guards: list[Guard] = []
        self.contexts: list[Context] = []
        self.constants: dict[str, torch.Tensor] = {}
        self.persistent: set[Storage] = set()
        self.dtype_reads: list[tuple[fx.Node, torch.dtype]] = []
        self.failure: BaseException | None = None
        self.escapes: list[str] = []
        self.modules: dict[int, str] = {}
        self.watched: frozenset[int] = frozenset()
        self.seen: dict[int, Any] = {}
        self._state = state
        self._leaf_depth = 0
        self._effects = _Effects()
        self._draws = _Draws()
        self._position = 0
        self._nodes: dict[int, fx.Node] = {}
        self._pending: dict[int, tuple[fx.Node, Steps]] = {}
        self._objects: dict[int, tuple[fx.Node | int, Steps]] = {}
        self._copies: dict[int, torch.Tensor] = {}
        self._originals: dict[int, torch.Tensor] = {}
        self._alive: list[Any] = []

    # -- what is going on -------------------------------------------------------------------------------------------

    @property
    def live(self) -> bool:
        """Whether calls are being written down, which they are not inside a leaf."""
        return self.active and self._leaf_depth == 0

    @property
    def owner(self) -> int:
        """The innermost open span."""
        return self.stack[-1] if self.stack else 0

    @contextmanager
    def inside_leaf(self) -> Iterator[_Effects]:
        """Run calls on stand-ins without writing them down."""
        outer, self._effects = self._effects, _Effects()
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

    # -- nodes ------------------------------------------------------------------------------------------------------

    def add(self, op: str, target: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, **known: Any):
        """Append a node and note its facts."""
        name = known.pop("name", None)
        node = self.graph.create_node(op, target, args, kwargs or {}, name=name)
        runs_model = op in ("placeholder", "call_module")
        known.setdefault("constant", not runs_model and all(facts(n).constant for n in node.all_input_nodes))
        node.meta["facts"] = Facts(self._position, self.owner, contexts=self.context(), **known)
        self._position += 1
        return node

    def context(self) -> tuple[Context, ...]:
        """Return the regions that calls run in right now."""
        regions = list(self.contexts)
        if torch.is_inference_mode_enabled():
            regions.append(Context(torch.inference_mode))
        elif not torch.is_grad_enabled():
            regions.append(Context(torch.no_grad))
        return tuple(regions)

    def next_position(self) -> int:
        """Return the position that the next node will have."""
        return self._position

    def keep(self, value: Any) -> None:
        """Hold on to an object so that its identity is not given to another."""
        self._alive.append(value)

    # -- tensors and their nodes ------------------------------------------------------------------------------------

    def stand_in(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the stand-in for ``tensor``, which is itself if it is one."""
        if id(tensor) in self._nodes or id(tensor) in self._pending or id(tensor) in self._originals:
            return tensor
        if id(tensor) not in self._copies:
            made = self._adopt(tensor)
            self._copies[id(tensor)] = made
            self._originals[id(made)] = tensor
            self._alive += [tensor, made]
        return self._copies[id(tensor)]

    def _adopt(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._leaf_depth and self._made_here(tensor):
            return tensor
        made = self.stand_ins.copy(tensor)
        if id(tensor) in self._state:
            self.persistent.add(storage_of(made))
        return made

    def _made_here(self, tensor: torch.Tensor) -> bool:
        """Say whether a tensor was computed from stand-ins by code that torch functions do not show."""
        if self.stand_ins.kind == "meta":
            return tensor.is_meta and self.device.type != "meta" and id(tensor) not in self._state
        return self.stand_ins.kind == "fake" and type(tensor).__name__ == "FakeTensor"

    def node_of(self, tensor: torch.Tensor) -> fx.Node:
        """Return the node that produced ``tensor``, writing the steps to it down if need be."""
        made = self.stand_in(tensor)
        if id(made) in self._nodes:
            return self._nodes[id(made)]
        if id(made) in self._pending:
            node, steps = self._pending.pop(id(made))
            return self.tie(made, self.follow(node, steps, made))
        return self.tie(made, self._state_node(self._originals.get(id(made), made), made))

    def _state_node(self, tensor: torch.Tensor, made: torch.Tensor) -> fx.Node:
        known = self._state.get(id(tensor))
        measured = {"value": measure(made), "storages": frozenset({storage_of(made)})}
        if known is not None:
            path, trained = known
            return self.add("get_attr", path, constant=not trained, **measured)
        name = f"_constant_{len(self.constants)}"
        self.constants[name] = tensor
        trouble = self._trouble(tensor)
        return self.add("get_attr", name, constant=True, unwritable=trouble, **measured)

    def _trouble(self, tensor: torch.Tensor) -> str | None:
        if self._made_here(tensor):
            return "a tensor made by compiled code that torch functions do not show"
        if self.escapes:
            return f"a tensor that may have been computed outside torch, after {self.escapes[-1]}"
        return None

    def tie(self, tensor: torch.Tensor, node: fx.Node) -> fx.Node:
        """Say that ``tensor`` is what ``node`` produced."""
        self._nodes[id(tensor)] = node
        self._pending.pop(id(tensor), None)
        self._alive.append(tensor)
        self._look(node, tensor)
        return node

    def _look(self, node: fx.Node, value: Any) -> None:
        """Copy a value that somebody wants to see as it was when it was produced."""
        if facts(node).position in self.watched:
            self.seen.setdefault(facts(node).position, copy_tensors(value))

    def follow(self, node: fx.Node, steps: Steps, value: Any) -> fx.Node:
        """Write down the steps from ``node`` to something its result holds."""
        for index, (kind, key) in enumerate(steps):
            function = operator.getitem if kind == "item" else getattr
            last = index == len(steps) - 1
            known = self._measured(value) if last else {}
            node = self.add("call_function", function, (node, key), counted=False, **known)
        return node

    def _measured(self, value: Any) -> dict[str, Any]:
        if isinstance(value, torch.Tensor):
            return {"value": measure(value), "storages": frozenset({storage_of(value)})}
        held = [tensor for _, tensor in tensors(value)]
        return {"value": _measure_all(value), "storages": frozenset(storage_of(tensor) for tensor in held)}

    def write_input(self, node: fx.Node, value: Any) -> Any:
        """Return ``value`` with stand-ins for its tensors, tied to a placeholder; what is not a tensor is guarded."""
        held = list(tensors(value))
        if not held:
            amend(node, value=value)
            if isinstance(value, (type(None), bool, int, float, str)) or value in ((), {}):
                self.guard(node, value, "the call", f"{node.name} = {value!r}")
            return value
        made = self._copied(value)
        amend(node, **self._measured(made))
        self.persistent |= facts(node).storages
        if isinstance(made, torch.Tensor):
            self.tie(made, node)
            return made
        self._register(made, node)
        self._guard_length(node, made)
        return made

    def _copied(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            made = self.stand_ins.copy(value)
            self._originals[id(made)] = value
            self.keep((value, made))
            return made
        if is_named_tuple(value):
            return type(value)(*(self._copied(held) for held in value))
        if type(value) in (tuple, list):
            return type(value)(self._copied(held) for held in value)
        if type(value) is dict:
            return {key: self._copied(held) for key, held in value.items()}
        return value

    def _guard_length(self, node: fx.Node, made: Any) -> None:
        if isinstance(made, (tuple, list)):
            length = self.add("call_function", len, (node,), value=len(made), counted=False)
            self.guard(length, len(made), "the call", f"len({node.name}) == {len(made)}")
        elif isinstance(made, dict):
            keys = self.add("call_function", set, (node,), value=set(made), counted=False)
            self.guard(keys, set(made), "the call", f"set({node.name}) == {set(made)}")

    # -- arguments --------------------------------------------------------------------------------------------------

    def to_run(self, value: Any) -> Any:
        """Replace what the model passed by what the stand-ins can run on."""
        if isinstance(value, torch.Tensor):
            return self.stand_in(value)
        if isinstance(value, numbers.RECORDED):
            return numbers.plain(value)
        if isinstance(value, RecordedTuple):
            return tuple(self.to_run(held) for held in tuple.__iter__(value))
        if is_named_tuple(value):
            return type(value)(*(self.to_run(held) for held in value))
        if type(value) in (tuple, list):
            return type(value)(self.to_run(held) for held in value)
        if type(value) is torch.Size:
            return torch.Size(numbers.plain(held) for held in value)
        if type(value) is dict:
            return {key: self.to_run(held) for key, held in value.items()}
        if isinstance(value, slice):
            return slice(self.to_run(value.start), self.to_run(value.stop), self.to_run(value.step))
        return value

    def to_write(self, value: Any) -> Any:
        """Replace what the model passed by what the graph can hold: nodes, literals, or ``Opaque``."""
        if isinstance(value, torch.Tensor):
            return self.node_of(value)
        if isinstance(value, (*numbers.RECORDED, RecordedTuple)):
            return value.node if self._is_mine(value) else self.to_run(value)
        if id(value) in self._objects:
            return self._written_object(value)
        if isinstance(value, numbers.RECORDED):
            return numbers.plain(value)
        if is_named_tuple(value):
            return Build(type(value), tuple((name, self.to_write(getattr(value, name))) for name in value._fields))
        if type(value) in (tuple, list, torch.Size):
            return (list if type(value) is list else tuple)(self.to_write(held) for held in value)
        if type(value) is dict:
            return {key: self.to_write(held) for key, held in value.items()}
        if isinstance(value, slice):
            return slice(self.to_write(value.start), self.to_write(value.stop), self.to_write(value.step))
        return self._write_rest(value)

    def _write_rest(self, value: Any) -> Any:
        if isinstance(value, _LITERALS):
            return value
        if isinstance(value, torch.nn.Module) and id(value) in self.modules:
            return ModuleAt(self.modules[id(value)])
        if dataclasses.is_dataclass(value) and not isinstance(value, type) and _rebuilds(value):
            names = [field.name for field in dataclasses.fields(value) if field.init]
            held = tuple((name, self.to_write(getattr(value, name))) for name in names)
            return Build(type(value), tuple(pair for pair in held if pair[1] is not None))
        return Opaque(type(value).__name__)

    def _is_mine(self, value: Any) -> bool:
        return value.node.graph is self.graph

    def _written_object(self, value: Any) -> Any:
        source, steps = self._objects[id(value)]
        if isinstance(source, fx.Node):
            return self.follow(source, steps, value)
        return Opaque(type(value).__name__, source, steps)

    # -- the mode ---------------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        answered, answer = self._answer(func, name, args)
        if answered:
            return answer
        if not self.live or name in _SILENT or attribute_of(func) in _SILENT:
            return self._run(func, args, kwargs)[0]
        if name in _ESCAPES:
            return self._escape(func, name, args, kwargs)
        call = spell_call(func, args, kwargs, sys._getframe(1))
        if name in _EXACT:
            return self.decide(_EXACT[name], (args[0],), self._exact(func, args))
        return self._write(call, func, args, kwargs)

    def _answer(self, func: Any, name: str, args: tuple[Any, ...]) -> tuple[bool, Any]:
        """Answer questions about devices from the originals, since stand-ins may live elsewhere."""
        attribute = attribute_of(func)
        if attribute == "requires_grad" and id(args[0]) in self._state and name == "__get__":
            return True, func(*args)
        if attribute in _DEVICE_QUESTIONS or attribute == "is_meta":
            return True, self._device_of(args[0]).type == attribute.removeprefix("is_")
        if attribute == "device":
            return True, self._tied_device(args[0])
        return False, None

    def _device_of(self, tensor: torch.Tensor) -> torch.device:
        original = self._originals.get(id(tensor), tensor)
        if id(original) in self._nodes or self.stand_ins.kind == "meta" and original.is_meta:
            return self.device
        return original.device

    def _tied_device(self, tensor: torch.Tensor) -> torch.device:
        plain = self._device_of(tensor)
        if not self.live:
            return plain
        # A new object for each reading, so that its identity tells which tensor it was read from.
        fresh = torch.device(plain.type) if plain.index is None else torch.device(plain.type, plain.index)
        node = self.add("call_function", getattr, (self.node_of(tensor), "device"), value=fresh)
        self._objects[id(fresh)] = (node, ())
        self.keep(fresh)
        return fresh

    def _exact(self, func: Any, args: tuple[Any, ...]) -> Any:
        return self._run(func, args, {})[0]

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, _Effects]:
        args, kwargs = self.to_run(tuple(args)), self.to_run(dict(kwargs))
        given = [held for held in _flat((args, kwargs)) if isinstance(held, torch.Tensor)]
        before = [_version(tensor) for tensor in given]
        self._draws.seen = False
        try:
            result = self._call(func, args, kwargs)
        except Exception as error:
            self.failure = error
            raise
        changed = {storage_of(tensor) for tensor, old in zip(given, before, strict=True) if _version(tensor) != old}
        effects = _Effects({storage_of(tensor) for tensor in given}, changed, self._draws.seen)
        if effects.draws:
            effects.reads.add(RNG)
            effects.writes.add(RNG)
        self._effects.reads |= effects.reads
        self._effects.writes |= effects.writes
        self._effects.draws |= effects.draws
        for _, tensor in tensors(result):
            self._own(tensor)
        return result, effects

    def _own(self, tensor: torch.Tensor) -> None:
        """Note that a tensor came out of a call on stand-ins, and so is one."""
        if id(tensor) not in self._nodes and id(tensor) not in self._pending and id(tensor) not in self._copies:
            self._originals.setdefault(id(tensor), tensor)
            self._alive.append(tensor)

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("item", "tolist", *_EXACT, *_ESCAPES) and id(args[0]) in self._originals:
            # The value of a parameter, a buffer or a constant is there to be read.
            args = (self._originals[id(args[0])], *args[1:])
        with self._draws:
            return self.stand_ins.call(func, args, kwargs)

    def _escape(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        node = self.node_of(args[0])
        result, _ = self._run(func, args, kwargs)
        if node.op == "get_attr":
            return result
        self.escapes.append(f"`.{name}()` at {model_line()[0]}")
        self.guard(node, ESCAPED)
        return result

    def _write(self, call: Any, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        op, target, shown, shown_kwargs = call
        written, written_kwargs = self.to_write(tuple(shown)), self.to_write(dict(shown_kwargs))
        result, effects = self._run(func, args, kwargs)
        return self.write_result(op, target, written, written_kwargs, result, effects)

    # -- results ----------------------------------------------------------------------------------------------------

    def write_result(self, op: str, target: Any, args: Any, kwargs: Any, result: Any, effects: _Effects) -> Any:
        """Append the node of a call that has run, and tie what it returned to it."""
        trouble = next((f"an argument of type {held.type_name}" for held in _flat((args, kwargs)) if _opaque(held)), None)
        if trouble:
            args, kwargs = _without_opaque(args), _without_opaque(kwargs)
        args, kwargs = self._written_modules(args), self._written_modules(kwargs)
        node = self.add(op, target, args, kwargs, unwritable=trouble)
        effects_known = {"reads": frozenset(effects.reads), "writes": frozenset(effects.writes), "draws": effects.draws}
        amend(node, **effects_known)
        if effects.draws:
            amend(node, constant=False)
        result = self._adopt_result(result, node, effects)
        amend(node, **self._measured(result))
        return result

    def _written_modules(self, value: Any) -> Any:
        if isinstance(value, ModuleAt):
            return self.add("get_attr", value.path, constant=True, counted=False)
        if isinstance(value, Build):
            fields = {name: self._written_modules(held) for name, held in value.fields}
            return self.add("call_function", value.factory, (), fields, counted=False)
        if isinstance(value, tuple):
            return tuple(self._written_modules(held) for held in value)
        if isinstance(value, list):
            return [self._written_modules(held) for held in value]
        if isinstance(value, dict):
            return {key: self._written_modules(held) for key, held in value.items()}
        return value

    def _adopt_result(self, result: Any, node: fx.Node, effects: _Effects) -> Any:
        if isinstance(result, torch.Tensor):
            return self._adopt_tensor(result, node, effects)
        if type(result) is torch.Size:
            return RecordedShape(result, node, self)
        if type(result) is tuple:
            counted = getattr(node.target, "__name__", node.target) in _COUNTED and not facts(node).constant
            held = tuple(self._separate(value, effects) for value in result)
            made = RecordedTuple(held, node, self, counted)
            self._register(made, node)
            return made
        if isinstance(result, bool):
            return self._decided(node, result)
        if type(result) in (int, float):
            return numbers.wrap(result, node, self)
        if isinstance(result, torch.dtype):
            self.dtype_reads.append((node, result))
            return result
        if type(result) is list and getattr(node.target, "__name__", node.target) == "tolist":
            return self._numbers_in(result, node)
        self._register(result, node)
        return result

    def _separate(self, value: Any, effects: _Effects) -> Any:
        """Give a tensor that a call handed back untouched an identity of its own.

        ``x.to(dtype)`` returns ``x`` itself where nothing has to be done. On another input it returns a new tensor,
        so what is later done with ``x`` must not be tied to ``x.to(dtype)``.
        """
        if not isinstance(value, torch.Tensor):
            return value
        made = self.stand_in(value)
        known = id(made) in self._nodes or id(made) in self._pending or made is not value
        if known and storage_of(made) not in effects.writes:
            return self.stand_ins.alias(made)
        return made

    def _adopt_tensor(self, tensor: torch.Tensor, node: fx.Node, effects: _Effects) -> torch.Tensor:
        made = self._separate(tensor, effects)
        if id(made) in self._nodes:
            amend(node, same_as=self._nodes[id(made)])
        self.tie(made, node)
        return made

    def _register(self, result: Any, node: fx.Node) -> None:
        self._look(node, result)
        for steps, held in walk(result):
            if not steps and not isinstance(held, (torch.Tensor, *_LITERALS)):
                self._objects[id(held)] = (node, steps)
                self.keep(held)
            elif isinstance(held, torch.Tensor):
                self._nodes.pop(id(held), None)
                self._pending[id(held)] = (node, steps)
                self.keep(held)

    def _numbers_in(self, values: list[Any], node: fx.Node) -> list[Any]:
        made = []
        for index, value in enumerate(values):
            element = self.add("call_function", operator.getitem, (node, index), counted=False, value=value)
            made.append(self._numbers_in(value, element) if type(value) is list else numbers.wrap(value, element, self))
        return made

    def remember(self, held: Any, span: int, steps: Steps) -> None:
        """Note that an object came out of a span, so that a later call can be given it from there."""
        self._objects.setdefault(id(held), (span, steps))
        self.keep(held)

    def passed(self, tensor: torch.Tensor, start: int) -> torch.Tensor:
        """Give a tensor from before position ``start`` an identity and a node of its own."""
        node = self.node_of(tensor)
        made = self.stand_in(tensor)
        if facts(node).position >= start:
            return made
        alias = self.stand_ins.alias(made)
        passed = self.add("call_function", same, (node,), counted=False, passed=True, **self._measured(alias))
        self.tie(alias, passed)
        return alias

    def write_attribute(self, path: str, module: torch.nn.Module, name: str, value: torch.Tensor) -> None:
        """Write down that the model's code put a new tensor where a buffer was."""
        place = storage_of(self.stand_in(getattr(module, name)))
        self.persistent.add(place)
        written = self.node_of(value)
        owner = self.add("get_attr", path, constant=True, counted=False)
        self.add("call_function", setattr, (owner, name, written), writes=frozenset({place}), counted=False)

    def refuse_on_meta(self, enabled: bool) -> None:
        """Meta tensors take no part in autocast, so their dtypes would be wrong from here on."""
        if enabled and self.stand_ins.kind == "meta":
            self.failure = RuntimeError("autocast does not act on meta tensors")
            raise self.failure

    # -- numbers, tuples and decisions ------------------------------------------------------------------------------

    @_quiet
    def compute(self, function: Callable[..., Any], operands: tuple[Any, ...], result: Any) -> Any:
        """Write arithmetic on sizes down."""
        if not self.live:
            return result
        node = self.add("call_function", function, self.to_write(operands), value=result)
        return numbers.wrap(result, node, self)

    @_quiet
    def decide(self, function: Callable[..., Any], operands: tuple[Any, ...], result: Any) -> Any:
        """Write down that the model's Python took a decision."""
        if not self.live:
            return result
        node = self.add("call_function", function, self.to_write(operands), value=result)
        return self._decided(node, result)

    def _decided(self, node: fx.Node, result: Any) -> Any:
        if not self._is_fixed(node):
            self.guard(node, result)
        return result

    def guard(self, node: fx.Node, expected: Any, *place: str) -> None:
        """Keep a decision, with the line of the model that took it."""
        where, source = place or model_line()
        self.guards.append(Guard(node, expected, where, source, self.owner, self._position))

    def _is_fixed(self, node: fx.Node) -> bool:
        """Say whether a number is the same for every input, as the shape of a parameter is."""
        inputs = node.all_input_nodes
        if not inputs:
            return node.op == "call_function"
        if node.target is getattr and node.args[1] in ("shape", "ndim") or node.target in ("size", "dim", "numel", "stride"):
            return inputs[0].op == "get_attr"
        return all(not isinstance(facts(held).value, _Measured) and self._is_fixed(held) for held in inputs)

    @_quiet
    def pin(self, number: Any, plain: Any) -> None:
        """Write a guard that a number is what it was."""
        if self.live and not self._is_fixed(number.node):
            self.guard(number.node, plain)

    @_quiet
    def take(self, source: RecordedTuple, key: Any, held: Any) -> Any:
        """Write down that an element was taken from a tuple."""
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
        amend(node, value=_measure_all(held))
        return numbers.wrap(held, node, self)

    def _nested(self, held: tuple[Any, ...], node: fx.Node) -> RecordedTuple:
        made = RecordedTuple(held, node, self)
        self._register(made, node)
        return made

    @_quiet
    def join(self, left: Any, right: Any, joined: tuple[Any, ...], kind: type) -> Any:
        """Write down that two tuples were joined."""
        if not self.live:
            return joined
        node = self.add("call_function", operator.add, (self.to_write(left), self.to_write(right)))
        amend(node, **self._measured(joined))
        return kind(tuple(numbers.plain(held) for held in joined), node, self)


_Measured = type(measure(torch.zeros(0)))


def _measure_all(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return measure(value)
    if isinstance(value, numbers.RECORDED):
        return numbers.plain(value)
    if isinstance(value, tuple):
        return tuple(_measure_all(held) for held in tuple.__iter__(value))
    if isinstance(value, list):
        return [_measure_all(held) for held in value]
    if isinstance(value, dict):
        return {key: _measure_all(held) for key, held in value.items()}
    if isinstance(value, _LITERALS):
        return value
    return tuple(measure(tensor) for _, tensor in tensors(value))


def storage_of(tensor: torch.Tensor) -> Storage:
    """Return the identity of the memory that ``tensor`` looks at."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse and nested tensors have no storage of their own
        return id(tensor)


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, (tuple, list)):
        for held in value:
            yield from _flat(held)
    elif isinstance(value, dict):
        for held in value.values():
            yield from _flat(held)
    elif isinstance(value, Build):
        for _, held in value.fields:
            yield from _flat(held)
    else:
        yield value


def _opaque(value: Any) -> bool:
    return isinstance(value, Opaque)


def _without_opaque(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_without_opaque(held) for held in value)
    if isinstance(value, list):
        return [_without_opaque(held) for held in value]
    if isinstance(value, dict):
        return {key: _without_opaque(held) for key, held in value.items()}
    return None if _opaque(value) else value


def _rebuilds(value: Any) -> bool:
    names = {field.name for field in dataclasses.fields(value) if field.init}
    return set(getattr(value, "__dict__", names)) <= names
