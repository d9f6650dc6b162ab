"""Copy a model's structure while every tensor stays shared."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from fxfeat.errors import TraceError
from fxfeat.ir.tree import parts_of

Held = TypeVar("Held", bound=nn.Module)


def share(module: Held, replaced: Mapping[int, Any] | None = None) -> Held:
    """Copy a module, all modules in it, their attributes and hooks, but not their tensors, which both then hold.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> copied = share(layer)
        >>> copied is layer, copied.weight is layer.weight
        (False, True)

    Args:
        module: the module; it is not changed.
        replaced: what the copy is to hold in place of a tensor or a module, by the ``id`` of the latter.

    Raises:
        TraceError: where a module cannot be copied.
    """
    memo: dict[int, Any] = {}
    for part in module.modules():
        memo.update((id(tensor), tensor) for tensor in parts_of(vars(part), torch.Tensor))
    memo.update(replaced or {})
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:
        raise TraceError(f"{type(module).__name__} cannot be copied: {type(error).__name__}: {error}.") from error
