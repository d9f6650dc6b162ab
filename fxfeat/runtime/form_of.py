"""The form of what a module returned: its structure, where tensors stand in it, and what else it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

TENSOR = "Tensor"
_NUMBERS = (bool, int, float, complex, torch.SymInt, torch.SymFloat, torch.SymBool)


def form_of(value: Any, free: tuple[tuple[Any, ...], ...] = ()) -> Any:
    """Return a structure with ``"Tensor"`` in the place of each tensor.

    Example:
        >>> form_of((torch.ones(1), None, {"scale": 2.0}))
        ('Tensor', None, {'scale': 2.0})
        >>> form_of([torch.ones(1), 3], ((1,),))
        ['Tensor', Ellipsis]

    Args:
        value: what a module returned.
        free: the keys that lead to numbers in it which may be any; ``...`` stands in their places.
    """
    proxy = next((part for part in tree_leaves(value) if isinstance(part, fx.Proxy)), None)
    if proxy is not None:
        # What traces an extractor with torch.fx gets this as one call.
        return proxy.tracer.create_proxy("call_function", form_of, (value, free), {})
    return _form_of(value, free, ())


def _form_of(value: Any, free: tuple[tuple[Any, ...], ...], keys: tuple[Any, ...]) -> Any:
    if keys in free and _is_number(value):
        return ...
    if isinstance(value, torch.Tensor):
        return TENSOR
    if isinstance(value, Mapping):
        return {key: _form_of(part, free, (*keys, key)) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        parts = [_form_of(part, free, (*keys, index)) for index, part in enumerate(value)]
        return tuple(parts) if isinstance(value, tuple) else parts
    return value


def _is_number(value: Any) -> bool:
    """Say whether a value is a number, or what stands for one while an extractor is exported or traced."""
    return isinstance(value, _NUMBERS) or (torch.jit.is_tracing() and isinstance(value, torch.Tensor))
