"""Leave a model as it was found, whatever happened to it in between."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_CONTAINERS = (dict, list, set)
_DEEPEST = 4


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put every attribute, buffer and random state back on the way out, also after an error.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> with untouched(layer):
        ...     _ = layer.eval()
        >>> layer.training
        True
    """
    held = _Photograph(model)
    values = _scripted_buffers(model)
    cpu, cuda, python = torch.get_rng_state(), _cuda_states(), random.getstate()
    numpy_state = _numpy_state()
    try:
        yield
    finally:
        held.restore()
        _restore_values(values)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        random.setstate(python)
        if numpy_state is not None:
            _numpy().set_state(numpy_state)


class _Photograph:
    """A shallow copy of every mutable thing that the model's modules hold."""

    def __init__(self, model: nn.Module) -> None:
        self._copies: dict[int, tuple[Any, Any]] = {}
        for module in model.modules():
            self._take(module.__dict__, 0)

    def _take(self, value: Any, depth: int) -> None:
        if id(value) in self._copies or depth > _DEEPEST:
            return
        if not isinstance(value, _CONTAINERS):
            self._take_attributes(value, depth)
            return
        self._copies[id(value)] = (value, value.copy())
        for held in list(value.values() if isinstance(value, dict) else value):
            self._take(held, depth + 1)

    def _take_attributes(self, value: Any, depth: int) -> None:
        if isinstance(value, (nn.Module, torch.Tensor, type)) or callable(value):
            return
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict):
            self._take(attributes, depth + 1)

    def restore(self) -> None:
        for value, copy in self._copies.values():
            if not _same(value, copy):
                _refill(value, copy)


def _same(value: Any, copy: Any) -> bool:
    if len(value) != len(copy):
        return False
    if isinstance(value, dict):
        return all(a is b and value[a] is copy[b] for a, b in zip(value, copy, strict=True))
    if isinstance(value, list):
        return all(a is b for a, b in zip(value, copy, strict=True))
    return {id(held) for held in value} == {id(held) for held in copy}


def _refill(value: Any, copy: Any) -> None:
    value.clear()
    if isinstance(value, list):
        value.extend(copy)
    else:
        value.update(copy)


def _scripted_buffers(model: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Copy the buffers of scripted modules, whose code in C++ runs on them and not on stand-ins."""
    scripted = [module for module in model.modules() if isinstance(module, torch.jit.ScriptModule)]
    return [(buffer, buffer.detach().clone()) for module in scripted for buffer in module.buffers(recurse=False)]


def _restore_values(values: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    with torch.no_grad():
        for buffer, value in values:
            if not torch.equal(buffer, value):
                buffer.copy_(value)


def _cuda_states() -> list[torch.Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []


def _numpy() -> Any:
    import numpy.random  # only where NumPy is already in use

    return numpy.random


def _numpy_state() -> Any:
    import sys

    return _numpy().get_state() if "numpy" in sys.modules else None
