"""Read what a model is made of before it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from fxfeat.ir.example import Example
from fxfeat.ir.node_meta import Storage
from fxfeat.ir.tree import tensors
from fxfeat.trace.builder.measure import storage_of
from fxfeat.trace.builder.trace import ModelParts


def read_tensors(model: nn.Module, example: Example, joins_memory: bool) -> ModelParts:
    """Read the tensors of a model, and which of them share memory where copies of them are to share it too."""
    state: dict[int, tuple[str, bool]] = {}
    named = list(_tensors_of(model))
    for path, tensor in named:
        state.setdefault(id(tensor), (path, isinstance(tensor, nn.Parameter)))
    return ModelParts(
        _device_of(model, example), state, {}, {}, _shared_memory(tensor for _, tensor in named) if joins_memory else {}
    )


def add_modules(
    parts: ModelParts, model: nn.Module, reachable: frozenset[int] | None, existing: frozenset[int] | None
) -> ModelParts:
    """Add the modules of a model, in the mode in which it runs, and which tensors there are besides its own."""
    paths: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(id(module), []).append(path)
    parameters = dict(model.named_parameters())
    return dataclasses.replace(parts, parameters=parameters, paths=paths, reachable=reachable, existing=existing)


def _tensors_of(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for name, value in (*module._parameters.items(), *module._buffers.items(), *vars(module).items()):
            if isinstance(value, torch.Tensor):
                yield prefix + name, value


def _device_of(model: nn.Module, example: Example) -> torch.device:
    first = next(iter(model.parameters()), None)
    if first is not None:
        return first.device
    given = (tensor.device for _, tensor in tensors((example.args, example.kwargs)))
    return next(given, torch.device("cpu"))


def _shared_memory(own: Iterable[torch.Tensor]) -> dict[Storage, torch.Tensor]:
    """Map memory that several of the model's tensors look at to one tensor over all of it."""
    looking: dict[Storage, dict[int, torch.Tensor]] = {}
    for tensor in own:
        if tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_quantized:
            looking.setdefault(storage_of(tensor), {})[id(tensor)] = tensor
    shared = {memory: next(iter(alike.values())) for memory, alike in looking.items() if len(alike) > 1}
    return {memory: _flat(tensor.detach()) for memory, tensor in shared.items()}


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    size = tensor.untyped_storage().nbytes() // tensor.element_size()
    return tensor.as_strided((size,), (1,), 0)
