"""Write down that the model's code put another tensor where one of its buffers was."""

from __future__ import annotations

import torch

from fxfeat.trace.builder.fakes import fake_of
from fxfeat.trace.builder.measure import storage_of
from fxfeat.trace.builder.nodes import add_node
from fxfeat.trace.builder.provenance import node_of
from fxfeat.trace.builder.trace import Trace


def write_rebinding(trace: Trace, path: str, module: torch.nn.Module, name: str, value: torch.Tensor) -> None:
    """Write down that a tensor is put where a buffer was; it may be the one that was there."""
    buffer, rebound = getattr(module, name), trace.memory.rebound
    memory = frozenset({storage_of(fake_of(trace, buffer))})
    # `self.table = self.table.to(x.dtype)` puts another tensor there only for another dtype.
    is_other = _handed_in(trace, value) is not _handed_in(trace, buffer)
    # What is written to the new tensor from now on is there at the next call, as what was written to the old one.
    trace.memory.persistent |= memory | {storage_of(fake_of(trace, value))}
    rebound[path, name] = is_other or rebound.get((path, name), False)
    written = node_of(trace, value)
    owner = add_node(trace, "get_attr", path, constant=True, counted=False)
    may_write = frozenset() if is_other else memory
    operands = (owner, name, written)
    add_node(trace, "call_function", setattr, operands, writes=memory, may_write=may_write, counted=False)


def put_back(trace: Trace, model: torch.nn.Module) -> None:
    """Put the model's own tensors where its code put what is the same."""
    for path, name in (place for place, is_other in trace.memory.rebound.items() if not is_other):
        module = model.get_submodule(path)
        setattr(module, name, trace.fakes.originals[id(_handed_in(trace, getattr(module, name)))])


def _handed_in(trace: Trace, tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor that calls were given which handed it back as this one."""
    fake = fake_of(trace, tensor)
    return trace.provenance.handed_back.get(id(fake), fake)
