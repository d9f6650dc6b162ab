"""The form of what a module returned: its structure, where tensors stand in it, and what else it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx


def form_of(value: Any, free: tuple[tuple[Any, ...], ...] = ()) -> Any:
    """Return a structure with ``torch.Tensor`` in the place of each tensor.

    Example:
        >>> form_of((torch.ones(1), None, {"scale": 2.0}))
        (<class 'torch.Tensor'>, None, {'scale': 2.0})
        >>> form_of([torch.ones(1), 3], ((1,),))
        [<class 'torch.Tensor'>, <class 'int'>]

    Args:
        value: what a module returned.
        free: the keys that lead to numbers in it which may be any; their types stand in their places.
    """
    if isinstance(value, fx.Proxy):
        # What traces an extractor with torch.fx gets this as one call.
        return value.tracer.create_proxy("call_function", form_of, (value, free), {})
    return _form_of(value, free, ())


def _form_of(value: Any, free: tuple[tuple[Any, ...], ...], keys: tuple[Any, ...]) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.Tensor
    if isinstance(value, Mapping):
        return {key: _form_of(part, free, (*keys, key)) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        parts = [_form_of(part, free, (*keys, index)) for index, part in enumerate(value)]
        return tuple(parts) if isinstance(value, tuple) else parts
    return type(value) if keys in free else value
