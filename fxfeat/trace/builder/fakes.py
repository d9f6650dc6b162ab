"""The fake tensors that stand for real ones, so that nothing the model owns is ever computed on."""

from __future__ import annotations

from typing import Any

import torch
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor

from fxfeat.trace.builder.measure import storage_of
from fxfeat.trace.builder.trace import Trace


def keep(trace: Trace, value: Any) -> None:
    """Hold on to an object so that its identity is not given to another."""
    trace.fakes.alive.append(value)


def note_fresh(trace: Trace, tensor: torch.Tensor) -> None:
    """Note that the model's code made a tensor from what is no tensor, as it does at each call."""
    trace.fakes.fresh.add(id(tensor))
    keep(trace, tensor)


def is_state(trace: Trace, value: Any) -> bool:
    """Say whether a value is a tensor that the model held before it ran."""
    return isinstance(value, torch.Tensor) and id(value) in trace.model.state


def copy_real(trace: Trace, tensor: torch.Tensor) -> torch.Tensor:
    """Make a fake tensor for a real one that is given to the model."""
    fake = trace.fake_tensors.copy(tensor)
    trace.fakes.originals[id(fake)] = tensor
    keep(trace, (tensor, fake))
    return fake


def fake_of(trace: Trace, tensor: torch.Tensor) -> torch.Tensor:
    """Return the fake tensor for ``tensor``, which is itself if it is one."""
    fakes, key = trace.fakes, id(tensor)
    if key in trace.provenance.nodes or key in trace.provenance.pending or key in fakes.originals:
        return tensor
    if key not in fakes.copies:
        fake = _adopt(trace, tensor)
        fakes.copies[key] = fake
        fakes.originals[id(fake)] = tensor
        keep(trace, (tensor, fake))
    return fakes.copies[key]


def adopt_result(trace: Trace, tensor: torch.Tensor) -> None:
    """Note that a tensor came out of a call on fake tensors, and so is one."""
    fakes, key = trace.fakes, id(tensor)
    if key in trace.provenance.nodes or key in trace.provenance.pending or key in fakes.copies:
        return
    fakes.originals.setdefault(key, tensor)
    keep(trace, tensor)


def holds_value(trace: Trace, tensor: torch.Tensor) -> bool:
    """Say whether a tensor's value is what it was before the model ran; real fake tensors hold their own."""
    if id(tensor) not in trace.fakes.originals:
        return False
    return trace.fake_tensors.kind != "real" and storage_of(tensor) not in trace.memory.written


def is_made_unseen(trace: Trace, tensor: torch.Tensor) -> bool:
    """Say whether a tensor was computed from fake tensors by code that torch functions do not show."""
    model = trace.model
    if trace.fake_tensors.kind == "meta":
        return tensor.is_meta and model.device.type != "meta" and id(tensor) not in model.state
    if trace.fake_tensors.kind == "fake":
        return type(tensor).__name__ == "FakeTensor"
    if model.reachable is None:
        return False
    return not any(id(tensor) in tensors for tensors in (model.reachable, model.state, trace.fakes.fresh))


def _adopt(trace: Trace, tensor: torch.Tensor) -> torch.Tensor:
    if trace.calls.whole_depth and is_made_unseen(trace, tensor):
        return tensor
    shared = _copy_over_shared_memory(trace, tensor)
    fake = trace.fake_tensors.copy(tensor) if shared is None else shared
    if is_functorch_wrapped_tensor(tensor):
        # What vmap hands to a function is another tensor over memory of the one that it was given.
        trace.memory.wrapping[storage_of(fake)] = storage_of(_unwrapped(tensor))
    if trace.model.existing is not None and id(tensor) not in trace.model.existing:
        note_fresh(trace, tensor)
    # Any tensor from outside outlives the call: in a list, in a global, in another object.
    if id(tensor) not in trace.fakes.fresh:
        trace.memory.persistent.add(storage_of(fake))
        if _is_stranger(trace, tensor):
            trace.memory.strangers.add(storage_of(fake))
    return fake


def _is_stranger(trace: Trace, tensor: torch.Tensor) -> bool:
    """Say whether a tensor is none of the model's: code may have made it just now, by ``torch.Tensor([1.0])``."""
    return trace.fake_tensors.kind != "real" and not is_state(trace, tensor)


def _copy_over_shared_memory(trace: Trace, tensor: torch.Tensor) -> torch.Tensor | None:
    """Let fake tensors of tensors over one memory share theirs: what is written to one is read from the other."""
    base = trace.model.shared_memory.get(storage_of(tensor))
    if base is None or base.dtype != tensor.dtype or tensor.layout != torch.strided:
        return None
    bases = trace.fakes.bases
    if id(base) not in bases:
        bases[id(base)] = trace.fake_tensors.copy(base)
    return bases[id(base)].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    while is_functorch_wrapped_tensor(tensor):
        tensor = get_unwrapped(tensor)
    return tensor
