"""Copy a model's structure while every tensor stays shared."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from fxfeat.errors import TraceError


def share(model: nn.Module) -> nn.Module:
    """Copy a model's modules, attributes and hooks, but not its tensors, which both then hold.

    >>> layer = nn.Linear(2, 2)
    >>> share(layer).weight is layer.weight
    True

    Raises:
        TraceError: where a module cannot be copied.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        memo.update((id(tensor), tensor) for tensor in _tensors_in(vars(module).values()))
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise TraceError(f"{type(model).__name__} cannot be copied: {type(error).__name__}: {error}.") from error


def _tensors_in(values: Iterable[Any], depth: int = 3) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif depth and isinstance(value, (list, tuple)):
            yield from _tensors_in(value, depth - 1)
        elif depth and isinstance(value, dict):
            yield from _tensors_in(value.values(), depth - 1)


def own(model: nn.Module, path: str) -> nn.Module:
    """Return the module at a path after making it, and all around it, the path's own.

    A module that hangs in the model under several paths can then be changed under one of them.
    """
    held = model
    counts: dict[int, int] = {}
    for _, module in model.named_modules(remove_duplicate=False):
        counts[id(module)] = counts.get(id(module), 0) + 1
    for name in path.split(".") if path else ():
        child = held._modules[name]
        assert child is not None
        if counts[id(child)] > 1:
            child = clone_module(child)
            held._modules[name] = child
            counts[id(child)] = 1
        held = child
    return held


def clone_module(module: nn.Module) -> nn.Module:
    """Copy one module; its tensors and its children are shared."""
    clone = copy.copy(module)
    for table in ("_modules", "_parameters", "_buffers"):
        clone.__dict__[table] = dict(module.__dict__[table])
    clone.__dict__["_non_persistent_buffers_set"] = set(module._non_persistent_buffers_set)
    return clone


def replace(model: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """Hang another module in at a path; return the model, which is the module itself if the path is empty."""
    if not path:
        return module
    owner, _, name = path.rpartition(".")
    model.get_submodule(owner)._modules[name] = module
    return model
