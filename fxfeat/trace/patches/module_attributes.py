"""See what a model's code reads from its modules and sets on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fxfeat.trace.builder.fakes import is_state
from fxfeat.trace.builder.provenance import node_of
from fxfeat.trace.builder.rebinding import write_rebinding
from fxfeat.trace.builder.trace import Trace
from fxfeat.trace.builder.unsupported import note_attribute_write
from fxfeat.trace.patches.replacement import Replacement
from fxfeat.trace.unobserved import unobserved

_UNSET = object()


def accessing(trace: Trace, reached: dict[tuple[int, int], str]) -> Iterator[Replacement]:
    """Yield what sees attributes of modules; ``reached`` is given the path by which a call reached a module last."""
    get, set_ = nn.Module.__getattr__, nn.Module.__setattr__

    def __getattr__(module: nn.Module, name: str) -> Any:
        value = get(module, name)
        if trace.calls.live_here:
            _note_read(trace, reached, module, name, value)
        return value

    def __setattr__(module: nn.Module, name: str, value: Any) -> None:
        if trace.calls.live_here and id(module) in trace.model.paths:
            _note_write(trace, module, name, value)
        set_(module, name, value)

    yield nn.Module, "__getattr__", __getattr__
    yield nn.Module, "__setattr__", __setattr__


def _note_read(trace: Trace, reached: dict[tuple[int, int], str], module: nn.Module, name: str, value: Any) -> None:
    if isinstance(value, nn.Module):
        parents = trace.model.paths.get(id(module), [])
        caller = trace.calls.module_calls[trace.calls.owner].path if trace.calls.opened else ""
        parent = caller if caller in parents else (parents[0] if parents else "")
        reached[trace.calls.owner, id(value)] = f"{parent}.{name}" if parent else name
    elif isinstance(value, nn.Parameter) and trace.calls.opened:
        with unobserved():
            node_of(trace, value)


def _note_write(trace: Trace, module: nn.Module, name: str, value: Any) -> None:
    path = trace.model.paths[id(module)][0]
    if not isinstance(value, torch.Tensor):
        if _current(module, name) is not value:
            note_attribute_write(trace, path, name)
        return
    current = module._buffers.get(name, vars(module).get(name))
    # What the code itself made before, in this run, is no state of the model's to be written to.
    if is_state(trace, current) or (path, name) in trace.memory.rebound:
        with unobserved():
            write_rebinding(trace, path, module, name, value)
    elif name in module._parameters:
        note_attribute_write(trace, path, name)


def _current(module: nn.Module, name: str) -> Any:
    tables = (module._modules, module._parameters, module._buffers, vars(module))
    return next((table[name] for table in tables if name in table), _UNSET)
