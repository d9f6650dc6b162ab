"""What goes into a call: as the fake tensors can run on it, and as the graph can hold it."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import Any

import torch
from torch import fx

from fxfeat.ir.module_call import ContainerAt, ModuleAt, Opaque, opaque_in, without_opaque
from fxfeat.ir.tree import Build, is_named_tuple, map_structure
from fxfeat.trace.builder.fakes import fake_of
from fxfeat.trace.builder.measure import LITERALS
from fxfeat.trace.builder.nodes import add_node
from fxfeat.trace.builder.provenance import follow, is_as_returned, node_of
from fxfeat.trace.builder.trace import Trace
from fxfeat.trace.proxies import numbers
from fxfeat.trace.proxies.arrays import plain_scalar
from fxfeat.trace.proxies.sequences import RecordedTuple
from fxfeat.trace.unobserved import unobserved


def to_run(trace: Trace, value: Any) -> Any:
    """Replace what the model passed by what the fake tensors can run on."""
    if isinstance(value, torch.Tensor):
        return fake_of(trace, value)
    if isinstance(value, (*numbers.RECORDED, numbers.OwnFloat)):
        return numbers.plain(value)
    if isinstance(value, RecordedTuple):
        return tuple(to_run(trace, part) for part in tuple.__iter__(value))
    if is_named_tuple(value):
        return type(value)(*(to_run(trace, part) for part in value))
    if type(value) in (tuple, list):
        return type(value)(to_run(trace, part) for part in value)
    if type(value) is torch.Size:
        return torch.Size(numbers.plain(part) for part in value)
    if type(value) is dict:
        return {key: to_run(trace, part) for key, part in value.items()}
    if isinstance(value, slice):
        return slice(to_run(trace, value.start), to_run(trace, value.stop), to_run(trace, value.step))
    return value


def to_write(trace: Trace, value: Any) -> Any:
    """Replace what the model passed by what the graph can hold: nodes, literals, or ``Opaque``."""
    if isinstance(value, torch.Tensor):
        return node_of(trace, value)
    if isinstance(value, (*numbers.RECORDED, RecordedTuple)):
        return value.node if is_of_trace(trace, value) else to_run(trace, value)
    if isinstance(value, numbers.OwnFloat):
        return value.exact
    if id(value) in trace.provenance.objects and is_as_returned(trace, value):
        return _written_object(trace, value)
    if is_named_tuple(value):
        return Build(type(value), tuple((name, to_write(trace, getattr(value, name))) for name in value._fields))
    if type(value) in (tuple, list, torch.Size):
        return (list if type(value) is list else tuple)(to_write(trace, part) for part in value)
    if type(value) is OrderedDict and all(isinstance(key, str) and key.isidentifier() for key in value):
        return Build(OrderedDict, tuple((key, to_write(trace, part)) for key, part in value.items()))
    if type(value) is dict:
        return {key: to_write(trace, part) for key, part in value.items()}
    if isinstance(value, slice):
        return slice(to_write(trace, value.start), to_write(trace, value.stop), to_write(trace, value.step))
    return _write_rest(trace, value)


def write_arguments(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Replace the arguments of a call by what the graph can hold."""
    with unobserved():
        return to_write(trace, tuple(args)), to_write(trace, dict(kwargs))


def add_call(trace: Trace, op: str, target: Any, args: Any, kwargs: Any) -> fx.Node:
    """Append the node of a call, noting what about its arguments cannot be written down."""
    reason = next((f"an argument of type {opaque.type_name}" for opaque in opaque_in((args, kwargs))), None)
    if reason:
        args, kwargs = without_opaque(args), without_opaque(kwargs)
    args, kwargs = _written_modules(trace, args), _written_modules(trace, kwargs)
    return add_node(trace, op, target, args, kwargs, unwritable=reason)


def is_of_trace(trace: Trace, value: Any) -> bool:
    """Say whether a recorded number or tuple comes from this run of the model, and not from an earlier one."""
    return value.node.graph is trace.graph


def _write_rest(trace: Trace, value: Any) -> Any:
    value = plain_scalar(value)
    if isinstance(value, LITERALS):
        return value
    if isinstance(value, torch.nn.Module) and id(value) in trace.model.paths:
        return ModuleAt(trace.model.paths[id(value)][0])
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and _rebuilds(value):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        fields = tuple((name, to_write(trace, getattr(value, name))) for name in names)
        return Build(type(value), tuple(field for field in fields if field[1] is not None))
    return Opaque(type(value).__name__)


def _rebuilds(value: Any) -> bool:
    names = {field.name for field in dataclasses.fields(value) if field.init}
    return set(getattr(value, "__dict__", names)) <= names


def _written_object(trace: Trace, value: Any) -> Any:
    source, steps = trace.provenance.objects[id(value)]
    if isinstance(source, fx.Node):
        return follow(trace, source, steps, value)
    return Opaque(type(value).__name__, source, steps)


def _written_modules(trace: Trace, value: Any) -> Any:
    """Write nodes for the modules and the objects to build that a structure holds."""

    def node_for(part: Any) -> Any:
        if isinstance(part, ModuleAt):
            return add_node(trace, "get_attr", part.path, constant=True, counted=False)
        if isinstance(part, ContainerAt):
            return add_node(trace, "get_attr", part.path, constant=True, counted=False, container=True)
        if isinstance(part, Build):
            fields = {name: _written_modules(trace, field) for name, field in part.fields}
            return add_node(trace, "call_function", part.factory, (), fields, counted=False)
        return part

    return map_structure(value, node_for)
