"""Write every torch-level call of a running model into an fx graph."""

from __future__ import annotations

import operator
import sys
from typing import Any

import torch
from torch import fx
from torch.overrides import TorchFunctionMode

from fxfeat.analysis.aliases import COPIES_OR_NOT, Tie
from fxfeat.analysis.effects import (
    attribute_of,
    sets_data,
    written_by,
)
from fxfeat.ir.module_call import opaque_in, without_opaque
from fxfeat.ir.node_meta import RNG, amend, measure, meta_of
from fxfeat.ir.source_lines import is_assertion, is_torch, model_line
from fxfeat.ir.tree import leaves_of, tensors
from fxfeat.runtime.check import raised
from fxfeat.trace.builder.decisions import Decisions
from fxfeat.trace.builder.graph import Effects
from fxfeat.trace.builder.measure import storage_of, version_of
from fxfeat.trace.builder.spelling import spell_call
from fxfeat.trace.proxies import numbers
from fxfeat.trace.proxies.arrays import arrays_alone
from fxfeat.trace.proxies.sequences import RecordedShape, RecordedTuple

_SILENT = {
    *("requires_grad", "grad", "grad_fn", "is_leaf", "_version", "layout", "names", "_backward_hooks", "output_nr"),
    *("retains_grad", "_base", "_grad", "is_quantized", "is_nested", "name", "volatile", "__dict__"),
    *(
        "is_inference",
        "_is_view",
        "is_conj",
        "is_neg",
        "_is_zerotensor",
    ),
    *(
        "is_sparse_csr",
        "is_mkldnn",
        "untyped_storage",
        "storage",
        "_typed_storage",
        "data_ptr",
        "is_shared",
        "is_pinned",
    ),
    *("__repr__", "__format__", "__hash__", "__dir__"),
    *("requires_grad_", "register_hook", "retain_grad", "register_post_accumulate_grad_hook", "_set_grad_enabled"),
    *("_has_compatible_shallow_copy_type", "has_names", "is_distributed", "set_default_tensor_type"),
    *("_make_subclass", "__reduce_ex__", "__deepcopy__", "can_cast", "result_type", "promote_types", "get_device"),
    *("_is_functional_tensor", "is_autocast_enabled", "get_autocast_dtype", "_enter_autocast", "_exit_autocast"),
}
_DEVICE_QUESTIONS = ("is_cuda", "is_cpu", "is_xpu", "is_mps", "is_mtia", "is_hpu", "is_ipu", "is_xla", "is_vulkan")
_EXACT = {
    "__len__": len,
    "__bool__": bool,
    "__int__": int,
    "__float__": float,
    "__index__": operator.index,
    "__complex__": complex,
}
_ESCAPES = ("numpy", "__array__", "__dlpack__", "__array_wrap__")
_GRADIENT_QUESTIONS = ("requires_grad", "grad_fn", "is_leaf")
_SOME_GRADIENT = object()
_REBINDINGS = ("set_", "resize_", "resize_as_", "swap_tensors")
_COUNTED = (
    "unbind",
    "chunk",
    "unsafe_chunk",
    "unsafe_split",
    "split",
    "tensor_split",
    "split_with_sizes",
    "nonzero",
    "hsplit",
    "vsplit",
    "dsplit",
    "where",
)


class Recorder(Decisions, TorchFunctionMode):
    """The mode under which a model runs once."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if func is torch.device:
            return args[0] if args and isinstance(args[0], torch.device) else func(*args, **kwargs)
        answered, answer = self._answer(func, name, args)
        if answered:
            return answer
        if self.live and attribute_of(func) in _GRADIENT_QUESTIONS and id(self.fake_of(args[0])) in self._nodes:
            return self._answer_about_gradients(func, str(attribute_of(func)), args[0])
        if self.live and name == "data_ptr":
            self.refuse(f"the address of a tensor's memory is read at {self.line()}")
        if name == "untyped_storage" and not is_torch(sys._getframe(1)):
            self.note_exchange(args[0], name, "handed out")
        asks_type = name == "type" and not args[1:] and not kwargs
        if not self.live or name in _SILENT or attribute_of(func) in _SILENT or asks_type:
            return self._run(func, args, kwargs)[0]
        if name in _ESCAPES:
            return self._escape(func, name, args, kwargs)
        if sets_data(func) and self._is_over(args[1], args[0]):
            return None
        if name in _REBINDINGS or sets_data(func):
            self._refuse_exchange(args[0], "exchanged")
        if arrays_alone(args, kwargs):
            return self._constant_of(func, args, kwargs)
        occurrence = (name, self.occurrence[self.owner, name])
        self.occurrence[self.owner, name] += 1
        call = spell_call(func, args, kwargs, sys._getframe(1))
        if name in _EXACT:
            return self.decide(_EXACT[name], (args[0],), self._exact(func, args))
        return self._write(call, func, args, kwargs, occurrence)

    def note_exchange(self, tensor: torch.Tensor, name: str, what: str) -> None:
        """Take a call that lets code do to a tensor's memory what nothing shows for a write."""
        place = storage_of(self.fake_of(tensor))
        self._effects.writes.add(place)
        if self.live:
            self.add("call_method", name, (self.node_of(tensor),), writes=frozenset({place}), counted=False)
            self._refuse_exchange(tensor, what)

    def _refuse_exchange(self, tensor: torch.Tensor, what: str) -> None:
        memory = frozenset({storage_of(self.fake_of(tensor))}) & self.persistent
        self.refuse(f"the memory of a tensor is {what} at {self.line()}", memory)

    def _answer(self, func: Any, name: str, args: tuple[Any, ...]) -> tuple[bool, Any]:
        """Answer questions about devices from the originals, since fake tensors may live elsewhere."""
        attribute = attribute_of(func)
        if attribute == "requires_grad" and id(args[0]) in self._state and name == "__get__":
            return True, func(*args)
        if attribute in _DEVICE_QUESTIONS or attribute == "is_meta":
            return True, self._answer_about_device(attribute, args[0])
        if attribute == "device":
            return True, self.tied_device(args[0])
        return False, None

    def _answer_about_device(self, attribute: str, tensor: torch.Tensor) -> bool:
        """Answer for the original, and check that it stays so, where the model's own code asks."""
        answer = self._device_of(tensor).type == attribute.removeprefix("is_")
        if self.live and attribute != "is_meta" and not is_torch(sys._getframe(3)):
            asked = self.add("call_function", getattr, (self.node_of(tensor), attribute), value=answer, counted=False)
            self.guard(asked, answer)
        return answer

    def _answer_about_gradients(self, func: Any, attribute: str, tensor: torch.Tensor) -> Any:
        """Answer as eager code would, where fake tensors would not, and check that it stays so."""
        node = self.node_of(tensor)
        answer = self.check_gradients(getattr, (node, "requires_grad"), self._is_trained(node))
        if attribute == "requires_grad":
            return answer
        return not answer if attribute == "is_leaf" else (_SOME_GRADIENT if answer else None)

    def check_gradients(self, function: Any, args: tuple[Any, ...] = (), holds: bool = True) -> bool:
        """Say whether gradients are on, and something else holds that they need; check it unless told otherwise."""
        self.asks_gradients = True
        if self.assumptions.gradients != "checked":
            return self.assumptions.gradients == "on"
        answer = self._grad and holds
        self.guard(self.add("call_function", function, args, value=answer, counted=False), answer)
        return answer

    def _is_over(self, value: torch.Tensor, tensor: torch.Tensor) -> bool:
        """Say whether a tensor is another one already in all but name, as after ``.to`` with nothing to do."""
        made, held = self.fake_of(value), self.fake_of(tensor)
        return storage_of(made) == storage_of(held) and measure(made) == measure(held)

    def _is_trained(self, node: fx.Node) -> bool:
        """Say whether anything that a value was computed from is trained."""
        waiting, seen = [node], {node}
        while waiting:
            held = waiting.pop()
            if held.op in ("call_module", "get_attr") and self._has_trained(str(held.target)):
                return True
            fresh = set(held.all_input_nodes) - seen
            seen |= fresh
            waiting += fresh
        return False

    def _has_trained(self, path: str) -> bool:
        return any(
            parameter.requires_grad and f"{name}.".startswith(f"{path}.") for name, parameter in self.parameters.items()
        )

    def _device_of(self, tensor: torch.Tensor) -> torch.device:
        original = self._originals.get(id(tensor), tensor)
        if id(original) in self._nodes or (self.fake_tensors.kind == "meta" and original.is_meta):
            return self.device
        return original.device

    def tied_device(self, tensor: torch.Tensor) -> torch.device:
        """Return the device of a tensor, as an object that stands for having been read from it."""
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

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Effects]:
        args, kwargs = self.to_run(tuple(args)), self.to_run(dict(kwargs))
        given = [held for held in leaves_of((args, kwargs)) if isinstance(held, torch.Tensor)]
        before = [version_of(tensor) for tensor in given]
        self._notice_unseen_writes(given, before)
        # Before the call: `x.data = y` takes the memory of x away.
        written = {storage_of(tensor) for tensor in written_by(func, args, kwargs)}
        if getattr(func, "__name__", "") in _ESCAPES:
            # An array looks at the tensor's memory, and nothing shows what is done to it.
            written |= {storage_of(tensor) for tensor in given} - self.persistent
        self._draws.seen, self._draws.tells, self._draws.written = False, False, set()
        try:
            result = self._call(func, args, kwargs)
        except Exception as error:
            self.failure = error
            self.caught = "" if self.live else self.line()
            raise
        changed = {storage_of(tensor) for tensor, old in zip(given, before, strict=True) if version_of(tensor) != old}
        changed |= written | self._draws.written
        changed |= {self._wrapping[memory] for memory in changed if memory in self._wrapping}
        self.written |= changed
        self._note_versions([*given, *(held for _, held in tensors(result))], changed)
        effects = Effects({storage_of(tensor) for tensor in given}, changed)
        if self._draws.seen:
            effects.note_draw()
        if self._draws.tells and not is_assertion(model_line()[1]):
            self.goes_by_values = True
        self._effects.reads |= effects.reads
        self._effects.writes |= effects.writes
        self._effects.draws |= effects.draws
        for _, tensor in tensors(result):
            self._own(tensor)
        if getattr(func, "__name__", "") in COPIES_OR_NOT:
            memory = frozenset({*effects.reads, *(storage_of(tensor) for _, tensor in tensors(result))} - {RNG})
            self.ties.append(Tie(self._position, memory))
        return result, effects

    def _notice_unseen_writes(self, given: list[torch.Tensor], versions: list[int]) -> None:
        """Refuse to write out code that writes in a way that torch functions do not show, such as ``z.imag = x``."""
        for tensor, version in zip(given, versions, strict=True):
            if self._versions.get(storage_of(tensor), {}).get(id(tensor), version) != version:
                self._versions.pop(storage_of(tensor))
                self.refuse(f"a tensor is written to in a way that torch does not show, before {self.line()}")

    def _note_versions(self, held: list[torch.Tensor], changed: set[Any]) -> None:
        for storage in changed:
            self._versions.pop(storage, None)
        for tensor in held:
            self._versions.setdefault(storage_of(tensor), {})[id(tensor)] = version_of(tensor)

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("item", "tolist", *_EXACT, *_ESCAPES) and self._holds_value(args[0]):
            # The value of a parameter, a buffer or a constant is there to be read.
            args = (self._originals[id(args[0])], *args[1:])
        with self._draws:
            return self.fake_tensors.call(func, args, kwargs)

    def _holds_value(self, tensor: torch.Tensor) -> bool:
        """Say whether a tensor's value is what it was before the model ran; real fake tensors hold their own."""
        if id(tensor) not in self._originals:
            return False
        return self.fake_tensors.kind != "real" and storage_of(tensor) not in self.written

    def _escape(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        node = self.node_of(args[0])
        result, effects = self._run(func, args, kwargs)
        memory = frozenset(effects.writes)
        self.add("call_method", name, (node,), writes=memory, may_write=memory, counted=False)
        if node.op == "get_attr" and hasattr(result, "copy"):
            result = result.copy()  # it looks at the model's own memory
        self.note_escape(f".{name}()")
        return result

    def note_escape(self, call: str) -> None:
        """Refuse to write out code that follows from a value which a call takes out of torch."""
        self.escapes.append(f"`{call}` at {model_line()[0]}")
        self.refuse(f"a value leaves torch at {self.line()}, so what follows from it cannot be written down")

    def _constant_of(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a tensor from NumPy arrays, which the extractor carries as a constant."""
        device = kwargs.get("device")
        result = func(*args, **{key: held for key, held in kwargs.items() if key != "device"})
        self.note_fresh(result)
        return result if device is None else self.__torch_function__(torch.Tensor.to, (), (result, device))

    def _write(self, call: Any, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], occurrence: Any) -> Any:
        op, target, shown, shown_kwargs = call
        self.squeezes |= str(getattr(target, "__name__", target)).startswith("squeeze")
        written, written_kwargs = self.to_write(tuple(shown)), self.to_write(dict(shown_kwargs))
        try:
            result, effects = self._run(func, args, kwargs)
        except Exception as error:
            self._guard_failure(op, target, written, written_kwargs, error)
            raise
        effects.occurrence = occurrence
        return self.write_result(op, target, written, written_kwargs, result, effects)

    def _guard_failure(self, op: str, target: Any, args: Any, kwargs: Any, error: Exception) -> None:
        """Check that a call fails, in case the model's code catches that."""
        function = getattr(torch.Tensor, target) if op == "call_method" else target
        node = self.add_call("call_function", raised, (function, *args), kwargs)
        amend(node, counted=False)
        self.guard(node, type(error).__name__)

    def write_result(self, op: str, target: Any, args: Any, kwargs: Any, result: Any, effects: Effects) -> Any:
        """Append the node of a call that has run, and tie what it returned to it."""
        node = self.add_call(op, target, args, kwargs)
        effects_known = {"reads": frozenset(effects.reads), "writes": frozenset(effects.writes), "draws": effects.draws}
        amend(node, occurrence=effects.occurrence, **effects_known)
        if effects.draws:
            amend(node, constant=False)
        result = self._adopt_result(result, node, effects)
        amend(node, **self._measured(result))
        return result

    def write_draw(self, function: Any, args: Any, kwargs: Any, number: Any) -> Any:
        """Append a draw from Python or NumPy, and tie the number to it."""
        state = frozenset({RNG})
        with self.uncounted():
            node = self.add_call("call_function", function, args, kwargs)
        amend(node, value=number, reads=state, writes=state, draws=True, constant=False)
        self.drawn.add(node)
        return self._read(number, node)

    def add_call(self, op: str, target: Any, args: Any, kwargs: Any) -> fx.Node:
        """Append the node of a call, noting what about its arguments cannot be written down."""
        trouble = next((f"an argument of type {held.type_name}" for held in opaque_in((args, kwargs))), None)
        if trouble:
            args, kwargs = without_opaque(args), without_opaque(kwargs)
        args, kwargs = self._written_modules(args), self._written_modules(kwargs)
        return self.add(op, target, args, kwargs, unwritable=trouble)

    def _adopt_result(self, result: Any, node: fx.Node, effects: Effects) -> Any:
        if isinstance(result, torch.Tensor):
            return self._adopt_tensor(result, node, effects)
        if type(result) is torch.Size:
            return RecordedShape(result, node, self)
        if type(result) is tuple:
            counted = getattr(node.target, "__name__", node.target) in _COUNTED and not meta_of(node).constant
            held = tuple(self._separate(value, effects) for value in result)
            made = RecordedTuple(held, node, self, counted)
            self._register(made, node)
            return made
        if isinstance(result, bool):
            return self._decided(node, result)
        if type(result) in (int, float):
            return self._read(result, node) if node.target == "item" else numbers.wrap(result, node, self)
        if isinstance(result, torch.dtype):
            self.dtype_reads.append((node, result))
            return result
        if type(result) is list and getattr(node.target, "__name__", node.target) == "tolist":
            shape = self.add("call_function", getattr, (node.args[0], "shape"), counted=False)
            self.guard(shape, meta_of(node.all_input_nodes[0]).value.shape)
            return self._numbers_in(result, node)
        result = self.tie_numbers(result, node)
        self._register(result, node)
        return result

    def _numbers_in(self, values: list[Any], node: fx.Node) -> list[Any]:
        made = []
        for index, value in enumerate(values):
            element = self.add("call_function", operator.getitem, (node, index), counted=False, value=value)
            made.append(self._numbers_in(value, element) if type(value) is list else self._read(value, element))
        return made

    def _read(self, value: Any, node: fx.Node) -> Any:
        """Return a number that was read out of a tensor.

        Code in C takes the number out of a subclass of ``int`` unseen: as an index, or in a format. Where a recording
        with other numbers is other code, that has happened, and they are pinned.
        """
        self.reads_values = True
        if self.assumptions.values == "pinned":
            self.guard(node, value)
        elif self.assumptions.values != "as they are" and type(value) in (int, float):
            sign = 1 if self.assumptions.values == "larger" else -1
            value = value + sign if type(value) is int else value * 1.25 + sign * 0.5
        return numbers.wrap(value, node, self)

    def refuse_on_meta(self, enabled: bool) -> None:
        """Meta tensors take no part in autocast, so their dtypes would be wrong from here on."""
        if enabled and self.fake_tensors.kind == "meta":
            self.failure = RuntimeError("autocast does not act on meta tensors")
            raise self.failure
