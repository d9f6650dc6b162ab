"""Write down that code has a tensor keep gradients, ``x.requires_grad_()`` and ``x.requires_grad = True``."""

from __future__ import annotations

from typing import Any

import torch

from fxfeat.ir.node_meta import Storage
from fxfeat.trace.builder.fakes import fake_of
from fxfeat.trace.builder.measure import storage_of
from fxfeat.trace.builder.nodes import add_node
from fxfeat.trace.builder.provenance import measure_memory, node_of, tie_result
from fxfeat.trace.builder.torch_call import TorchCall
from fxfeat.trace.builder.trace import Trace
from fxfeat.trace.builder.unanswerable import refuse_in_try


def sets_gradient_flag(trace: Trace, call: TorchCall) -> bool:
    """Say whether opened code has a tensor keep gradients which is not the model's own."""
    if not trace.calls.live or not _is_flag(call) or type(_flag_in(call)) is not bool:
        return False
    return node_of(trace, call.args[0]).op != "get_attr"


def write_gradient_flag(trace: Trace, call: TorchCall) -> torch.Tensor:
    """Write the call down as a write to the tensor's memory: whoever saw the tensor before keeps it as it was."""
    # It may fail where it does not now: on a tensor that is no leaf, or of integers.
    refuse_in_try(trace, call.caller)
    tensor = call.args[0]
    memory: frozenset[Storage] = frozenset({storage_of(fake_of(trace, tensor))})
    source, flag = node_of(trace, tensor), _flag_in(call)
    trace.memory.written |= memory
    trace.memory.effects.writes |= memory
    effects: dict[str, Any] = {"reads": memory, "writes": memory, "constant": False, "counted": False}
    effects.update(measure_memory(trace, fake_of(trace, tensor)))
    node = add_node(trace, "call_method", "requires_grad_", (source, flag), **effects)
    return tie_result(trace, tensor, node, set(memory))


def _is_flag(call: TorchCall) -> bool:
    return call.name == "requires_grad_" or (call.name == "__set__" and call.attribute == "requires_grad")


def _flag_in(call: TorchCall) -> Any:
    return call.args[1] if len(call.args) > 1 else call.kwargs.get("requires_grad", True)
