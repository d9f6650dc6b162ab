"""What goes into a call: as the fake tensors can run on it, and as the graph can hold it."""

from __future__ import annotations

import copy
import dataclasses
import enum
import operator
import types
from collections import OrderedDict
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor

from fxfeat.errors import TraceError
from fxfeat.ir.module_call import (
    ContainerAt,
    ModuleAt,
    Opaque,
)
from fxfeat.ir.node_meta import (
    amend,
    measure,
    meta_of,
)
from fxfeat.ir.tree import Build, Steps, children, is_named_tuple, is_structure, map_parts, spell, tensors, walk
from fxfeat.trace.builder.measure import LITERALS, storage_of
from fxfeat.trace.builder.provenance import Provenance
from fxfeat.trace.proxies import numbers
from fxfeat.trace.proxies.arrays import plain_scalar
from fxfeat.trace.proxies.sequences import RecordedTuple

_GUARDED = (
    *(type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, enum.Enum, type),
    *(types.FunctionType, types.BuiltinFunctionType),
)
_CONTAINERS = (tuple, list, dict)
_PLAIN_TENSORS = (torch.Tensor, torch.nn.Parameter, FakeTensor)


class Arguments(Provenance):
    """Translates arguments for running and for writing."""

    def to_run(self, value: Any) -> Any:
        """Replace what the model passed by what the fake tensors can run on."""
        if isinstance(value, torch.Tensor):
            return self.fake_of(value)
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
        if id(value) in self._objects and self.is_as_returned(value):
            return self._written_object(value)
        if isinstance(value, numbers.RECORDED):
            return numbers.plain(value)
        if is_named_tuple(value):
            return Build(type(value), tuple((name, self.to_write(getattr(value, name))) for name in value._fields))
        if type(value) in (tuple, list, torch.Size):
            return (list if type(value) is list else tuple)(self.to_write(held) for held in value)
        if type(value) is OrderedDict and all(isinstance(key, str) and key.isidentifier() for key in value):
            return Build(OrderedDict, tuple((key, self.to_write(held)) for key, held in value.items()))
        if type(value) is dict:
            return {key: self.to_write(held) for key, held in value.items()}
        if isinstance(value, slice):
            return slice(self.to_write(value.start), self.to_write(value.stop), self.to_write(value.step))
        return self._write_rest(value)

    def _write_rest(self, value: Any) -> Any:
        value = plain_scalar(value)
        if isinstance(value, LITERALS):
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

    def _written_modules(self, value: Any) -> Any:
        if isinstance(value, ModuleAt):
            return self.add("get_attr", value.path, constant=True, counted=False)
        if isinstance(value, ContainerAt):
            return self.add("get_attr", value.path, constant=True, counted=False, container=True)
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

    def write_input(self, node: fx.Node, value: Any, sole: bool) -> Any:
        """Return ``value`` with fake tensors for its tensors, tied to a placeholder; what is not a tensor is guarded.

        So is that a tensor is one, and a list one, for code may ask whether it is None; but not of the ``sole`` tensor
        of a call.
        """
        held = list(tensors(value))
        if not held:
            amend(node, value=value)
            if not _is_plain(value):
                return value
            # The model's code may change what it is given.
            kept = copy.deepcopy(value) if isinstance(value, (*_CONTAINERS, set)) else value
            self.guard(node, kept, "the call", f"{node.name} = {value!r}")
            return copy.deepcopy(kept) if isinstance(value, (*_CONTAINERS, set)) else value
        made = self._copied(value)
        if isinstance(made, torch.Tensor):
            made = self._join_same_tensor(node, value, made)
        amend(node, **self._measured(made))
        self.persistent |= meta_of(node).aliases
        self._inputs += [tensor for _, tensor in tensors(made)]
        if isinstance(made, torch.Tensor):
            if node.args or not sole:
                self._guard_kind(node, made, node.name)
            if id(made) not in self._nodes:
                self.tie(made, node)
            return made
        self._register(made, node)
        for steps, held in list(walk(made)):
            self._guard_part(node, steps, held, sole)
        return made

    def _guard_part(self, node: fx.Node, steps: Steps, held: Any, sole: bool) -> None:
        """Check what an argument that holds tensors is like, at some steps into it."""
        name = f"{node.name}{spell(steps)}"
        if isinstance(held, torch.Tensor):
            if not sole:
                self._guard_kind(self.node_of(held), held, name)
            return
        part = self.follow(node, steps, held)
        if isinstance(held, _GUARDED):
            self.guard(part, held, "the call", f"{name} = {held!r}")
            return
        # What a star gathers is always there.
        if steps or not str(node.target).startswith("*"):
            self._guard_kind(part, held, name)
        self._guard_length(part, held, name)

    def _copied(self, value: Any) -> Any:
        """Copy an input with its containers, which the model's code may change."""
        return map_parts(value, self._copied_tensor, is_structure, anew=True)

    def _copied_tensor(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if type(value) not in _PLAIN_TENSORS:
            raise TraceError(
                f"An input is a {type(value).__name__}, and fxfeat records plain tensors. Pass its "
                ".as_subclass(torch.Tensor) in example_inputs=."
            )
        made = self.fake_tensors.copy(value)
        self._originals[id(made)] = value
        self.keep((value, made))
        return made

    def _join_same_tensor(self, node: fx.Node, value: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
        """Return the fake tensor of an earlier input that this one is taken to be the same tensor as, or its own."""
        same_tensor = [held for held in self._twins if measure(held[2]) == measure(made)]
        for other, original, shared in same_tensor if self.assumptions.same_tensor != "apart" else ():
            joined = self.assumptions.same_tensor == "together" or original is value
            if self.assumptions.same_tensor == "checked":
                asked = self.add("call_function", operator.is_, (node, other), value=joined, counted=False)
                self.guard(asked, joined, "the call", f"{node.name} is {other.name}")
            made = shared if joined else made
        self._twins.append((node, value, made))
        return made

    def _guard_kind(self, node: fx.Node, held: Any, name: str) -> None:
        kind = next((kind for kind in (torch.Tensor, *_CONTAINERS) if isinstance(held, kind)), None)
        if kind is None:
            asked = self.add("call_function", operator.is_, (node, None), value=False, counted=False)
            self.guard(asked, False, "the call", f"{name} is None")
            return
        asked = self.add("call_function", isinstance, (node, kind), value=True, counted=False)
        spelled = "torch.Tensor" if kind is torch.Tensor else kind.__name__
        self.guard(asked, True, "the call", f"isinstance({name}, {spelled})")

    def _guard_length(self, node: fx.Node, made: Any, name: str) -> None:
        if isinstance(made, (tuple, list)):
            length = self.add("call_function", len, (node,), value=len(made), counted=False)
            self.guard(length, len(made), "the call", f"len({name}) == {len(made)}")
        elif isinstance(made, dict):
            keys = self.add("call_function", set, (node,), value=set(made), counted=False)
            self.guard(keys, set(made), "the call", f"set({name}) == {set(made)}")

    def write_attribute(self, path: str, module: torch.nn.Module, name: str, value: torch.Tensor) -> None:
        """Write down that the model's code put a tensor where a buffer was; it may be the one that was there."""
        held = getattr(module, name)
        place = frozenset({storage_of(self.fake_of(held))})
        # `self.table = self.table.to(x.dtype)` puts another tensor there only for another dtype.
        is_other = self._itself(value) is not self._itself(held)
        self.persistent |= place
        self.rebound[path, name] = is_other or self.rebound.get((path, name), False)
        written = self.node_of(value)
        owner = self.add("get_attr", path, constant=True, counted=False)
        may_write = frozenset() if is_other else place
        self.add("call_function", setattr, (owner, name, written), writes=place, may_write=may_write, counted=False)

    def _itself(self, tensor: torch.Tensor) -> torch.Tensor:
        made = self.fake_of(tensor)
        return self._handed_back.get(id(made), made)

    def put_back(self, model: torch.nn.Module) -> None:
        """Put the model's own tensors where its code put what is the same."""
        for path, name in (place for place, is_other in self.rebound.items() if not is_other):
            module = model.get_submodule(path)
            setattr(module, name, self._originals[id(self._itself(getattr(module, name)))])


def _is_plain(value: Any) -> bool:
    """Say whether a value without tensors can be compared with another."""
    if isinstance(value, (set, frozenset)):
        return all(map(_is_plain, value))
    if isinstance(value, _CONTAINERS) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return all(_is_plain(part) for _, part in children(value))
    return isinstance(value, _GUARDED)


def _rebuilds(value: Any) -> bool:
    names = {field.name for field in dataclasses.fields(value) if field.init}
    return set(getattr(value, "__dict__", names)) <= names
