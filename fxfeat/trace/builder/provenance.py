"""Which node produced which tensor, by the identity of the fake tensor that holds the value."""

from __future__ import annotations

import contextlib
import dataclasses
import operator
from typing import Any

import torch
from torch import fx
from torch._C._functorch import is_functorch_wrapped_tensor

from fxfeat.ir.node_meta import Storage, amend, measure, meta_of, same
from fxfeat.ir.tree import Steps, children, copy_tensors, tensors, walk
from fxfeat.trace.builder.fakes import fake_of, is_made_unseen, keep
from fxfeat.trace.builder.measure import LITERALS, measure_all, storage_of
from fxfeat.trace.builder.nodes import add_node
from fxfeat.trace.builder.trace import Trace


def node_of(trace: Trace, tensor: torch.Tensor) -> fx.Node:
    """Return the node that produced ``tensor``, writing the steps to it down if need be."""
    fake, provenance = fake_of(trace, tensor), trace.provenance
    if id(fake) in provenance.nodes:
        return provenance.nodes[id(fake)]
    if id(fake) in provenance.pending:
        node, steps = provenance.pending.pop(id(fake))
        return tie(trace, fake, follow(trace, node, steps, fake))
    return tie(trace, fake, _state_node(trace, trace.fakes.originals.get(id(fake), fake), fake))


def tie(trace: Trace, tensor: torch.Tensor, node: fx.Node) -> fx.Node:
    """Say that ``tensor`` is what ``node`` produced."""
    trace.provenance.nodes[id(tensor)] = node
    trace.provenance.produced_at.setdefault(id(tensor), meta_of(node).position)
    trace.provenance.pending.pop(id(tensor), None)
    keep(trace, tensor)
    _watch(trace, node, tensor)
    return node


def tie_parts(trace: Trace, result: Any, node: fx.Node) -> None:
    """Say that an object, and the tensors that it holds, are what ``node`` produced."""
    provenance = trace.provenance
    _watch(trace, node, result)
    for steps, part in walk(result):
        if isinstance(part, torch.Tensor):
            provenance.nodes.pop(id(part), None)
            provenance.pending[id(part)] = (node, steps)
            keep(trace, part)
        elif not steps and not isinstance(part, LITERALS):
            _tie_object(trace, part, node, steps)


def tie_to_module_call(trace: Trace, value: Any, index: int, steps: Steps) -> None:
    """Note that an object came out of a module call, so that a later call can be given it from there."""
    source, _ = trace.provenance.objects.get(id(value), (None, ()))
    if isinstance(source, fx.Node) or (source is not None and is_as_returned(trace, value)):
        return
    if source is not None:
        # Code has changed it since: what the earlier call returned is a feature of its own.
        module_calls = trace.calls.module_calls
        module_calls[source] = dataclasses.replace(module_calls[source], mutated=True)
    _tie_object(trace, value, index, steps)


def is_as_returned(trace: Trace, value: Any) -> bool:
    """Say whether an object that a call returned holds what it held then."""
    contents = trace.provenance.contents
    return id(value) not in contents or contents[id(value)] == _contents(value)


def follow(trace: Trace, node: fx.Node, steps: Steps, value: Any) -> fx.Node:
    """Write down the steps from ``node`` to something its result holds."""
    for index, (kind, key) in enumerate(steps):
        function = operator.getitem if kind == "item" else getattr
        measured = measure_memory(trace, value) if index == len(steps) - 1 else {}
        node = add_node(trace, "call_function", function, (node, key), counted=False, **measured)
    return node


def measure_memory(trace: Trace, value: Any) -> dict[str, Any]:
    """Tell of a value what there is to be noted of the node that produced it."""
    if isinstance(value, torch.Tensor):
        with contextlib.suppress(NotImplementedError, RuntimeError):  # not every tensor has a storage
            # Code may exchange its memory: what is let go must not lend its identity to what is made later.
            keep(trace, value.untyped_storage())
        return {"value": measure(value), "aliases": frozenset({storage_of(value)})}
    aliases: frozenset[Storage] = frozenset(storage_of(tensor) for _, tensor in tensors(value))
    return {"value": measure_all(value), "aliases": aliases}


def give_identity(trace: Trace, tensor: torch.Tensor, start: int) -> torch.Tensor:
    """Give a tensor from before position ``start``, though written to since, an identity and a node of its own."""
    node = node_of(trace, tensor)
    fake = fake_of(trace, tensor)
    if trace.provenance.produced_at[id(fake)] >= start:
        return fake
    alias = trace.fake_tensors.alias(fake)
    alias.__dict__.update(tensor.__dict__)  # what code has put on it
    passed = add_node(trace, "call_function", same, (node,), counted=False, passed=True, **measure_memory(trace, alias))
    tie(trace, alias, passed)
    return alias


def separate(trace: Trace, value: Any, writes: set[Storage]) -> Any:
    """Give a tensor that a call handed back untouched an identity of its own.

    ``x.to(dtype)`` returns ``x`` itself where nothing has to be done. On another input it returns a new tensor,
    so what is later done with ``x`` must not be tied to ``x.to(dtype)``.
    """
    if not isinstance(value, torch.Tensor):
        return value
    fake, provenance = fake_of(trace, value), trace.provenance
    is_new = fake is value and id(fake) not in provenance.nodes and id(fake) not in provenance.pending
    if is_new or storage_of(fake) in writes:
        return fake
    alias = trace.fake_tensors.alias(fake)
    provenance.handed_back[id(alias)] = provenance.handed_back.get(id(fake), fake)
    return alias


def tie_result(trace: Trace, tensor: torch.Tensor, node: fx.Node, writes: set[Storage]) -> torch.Tensor:
    """Say that a tensor is what the call of ``node`` returned, which may be one of those that it was given."""
    fake = separate(trace, tensor, writes)
    if id(fake) in trace.provenance.nodes:
        amend(node, same_as=trace.provenance.nodes[id(fake)])
    tie(trace, fake, node)
    return fake


def _state_node(trace: Trace, tensor: torch.Tensor, fake: torch.Tensor) -> fx.Node:
    measured = measure_memory(trace, fake)
    if id(tensor) in trace.model.state:
        path, is_parameter = trace.model.state[id(tensor)]
        return add_node(trace, "get_attr", path, constant=not is_parameter, **measured)
    name = f"_constant_{len(trace.provenance.constants)}"
    trace.provenance.constants[name] = tensor
    reason = _why_unwritable(trace, tensor)
    if id(tensor) not in trace.fakes.fresh:
        return add_node(trace, "get_attr", name, constant=True, unwritable=reason, **measured)
    # The model makes it anew at each call, so what it writes to it is gone by the next.
    value = measured["value"]
    carried = add_node(trace, "get_attr", name, constant=True, unwritable=reason, value=value, counted=False)
    return add_node(trace, "call_function", torch.clone, (carried,), constant=True, counted=False, **measured)


def _why_unwritable(trace: Trace, tensor: torch.Tensor) -> str | None:
    if is_functorch_wrapped_tensor(tensor):
        return "a tensor that a transform of torch.func, such as vmap, hands to a function"
    if is_made_unseen(trace, tensor):
        return "a tensor made out of fxfeat's sight, by nn.Parameter, by copy.deepcopy, in compiled or vectorized code"
    if trace.obstacles.escapes:
        return f"a tensor that may have been computed outside torch, after {trace.obstacles.escapes[-1]}"
    return None


def _watch(trace: Trace, node: fx.Node, value: Any) -> None:
    """Copy a value that somebody wants to see as it was when it was produced."""
    call_path = meta_of(node).call_path
    if call_path in trace.watch.call_paths:
        trace.watch.values.setdefault(call_path, copy_tensors(value))


def _tie_object(trace: Trace, value: Any, source: fx.Node | int, steps: Steps) -> None:
    trace.provenance.objects[id(value)] = (source, steps)
    trace.provenance.contents[id(value)] = _contents(value)
    keep(trace, (value, [part for _, part in children(value)]))


def _contents(value: Any) -> list[tuple[Any, int]]:
    """Tell by identity what an object holds directly."""
    return [(step, id(part)) for step, part in children(value)]
