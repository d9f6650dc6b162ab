"""Calls that exchange the memory of a tensor, or give it to code outside torch, where nothing shows what is done."""

from __future__ import annotations

from typing import Any

import torch

from fxfeat.analysis.effects import sets_data
from fxfeat.ir.node_meta import measure
from fxfeat.ir.source_lines import is_torch
from fxfeat.trace.builder.fakes import fake_of
from fxfeat.trace.builder.measure import storage_of
from fxfeat.trace.builder.nodes import add_node
from fxfeat.trace.builder.provenance import node_of
from fxfeat.trace.builder.run_call import run_call
from fxfeat.trace.builder.torch_call import TorchCall
from fxfeat.trace.builder.trace import Trace
from fxfeat.trace.builder.unsupported import current_line, refuse, refuse_after_escape

_REBINDINGS = ("set_", "resize_", "resize_as_", "swap_tensors")


def notice_exposure(trace: Trace, call: TorchCall) -> None:
    """Refuse to write out code that asks where a tensor's memory is, or takes it."""
    if trace.calls.live and call.name == "data_ptr":
        refuse(trace, f"the address of a tensor's memory is read at {current_line()}")
    if call.name == "untyped_storage" and not is_torch(call.caller):
        note_exposure(trace, call.args[0], call.name, "handed out")


def note_exposure(trace: Trace, tensor: torch.Tensor, name: str, what: str) -> None:
    """Take a call that lets code do to a tensor's memory what nothing shows for a write."""
    memory = storage_of(fake_of(trace, tensor))
    trace.memory.effects.writes.add(memory)
    if trace.calls.live:
        node, writes = node_of(trace, tensor), frozenset({memory})
        add_node(trace, "call_method", name, (node,), writes=writes, counted=False)
        _refuse_exchange(trace, tensor, what)


def sets_what_is_there(trace: Trace, call: TorchCall) -> bool:
    """Say whether a call puts a tensor's own memory where it is, as ``x.data = x.to(x.dtype)`` does."""
    if not sets_data(call.function):
        return False
    value, tensor = fake_of(trace, call.args[1]), fake_of(trace, call.args[0])
    return storage_of(value) == storage_of(tensor) and measure(value) == measure(tensor)


def notice_exchange(trace: Trace, call: TorchCall) -> None:
    """Refuse to write out code that gives a tensor other memory."""
    if call.name in _REBINDINGS or sets_data(call.function):
        _refuse_exchange(trace, call.args[0], "exchanged")


def hand_out(trace: Trace, call: TorchCall) -> Any:
    """Run a call that hands a tensor's memory to code outside torch."""
    node = node_of(trace, call.args[0])
    result, effects = run_call(trace, call.function, call.args, call.kwargs)
    memory = frozenset(effects.writes)
    add_node(trace, "call_method", call.name, (node,), writes=memory, may_write=memory, counted=False)
    if node.op == "get_attr" and hasattr(result, "copy"):
        result = result.copy()  # it looks at the model's own memory
    refuse_after_escape(trace, f".{call.name}()")
    return result


def _refuse_exchange(trace: Trace, tensor: torch.Tensor, what: str) -> None:
    memory = frozenset({storage_of(fake_of(trace, tensor))}) & trace.memory.persistent
    refuse(trace, f"the memory of a tensor is {what} at {current_line()}", memory)
