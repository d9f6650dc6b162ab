"""The oracle: eager PyTorch with forward hooks that clone."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


def clone(value: Any) -> Any:
    """Copy every tensor in a value."""
    return copy.copy(value) if not isinstance(value, torch.Tensor) else value.detach().clone()


def call(model: nn.Module, inputs: Any) -> Any:
    """Call a model with fresh copies of a tensor, a tuple or a dict of inputs."""
    inputs = copy.deepcopy(inputs)
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def hooked(model: nn.Module, inputs: Any) -> dict[str, list[torch.Tensor]]:
    """Run a model and collect what each of its modules returned at each call, where that is a tensor."""
    seen: dict[str, list[torch.Tensor]] = {}
    handles = []
    for path, module in model.named_modules():
        if path:
            keep = _keeper(seen, path)
            handles.append(module.register_forward_hook(keep))
    try:
        with kept_buffers(model):
            call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _keeper(seen: dict[str, list[torch.Tensor]], path: str) -> Any:
    def keep(module: nn.Module, args: Any, result: Any) -> None:
        if isinstance(result, torch.Tensor):
            seen.setdefault(path, []).append(result.detach().clone())

    return keep


class kept_buffers:
    """Put buffers back after a run in train mode."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __enter__(self) -> None:
        self.held = [(buffer, buffer.detach().clone()) for buffer in self.model.buffers()]

    def __exit__(self, *error: Any) -> None:
        with torch.no_grad():
            for buffer, value in self.held:
                if buffer.shape == value.shape:
                    buffer.copy_(value)


def same(left: Any, right: Any) -> bool:
    """Compare bit for bit, NaN equal to NaN."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    return torch.equal(left, right) or torch.allclose(left, right, rtol=0, atol=0, equal_nan=True)
