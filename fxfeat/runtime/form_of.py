"""The form of what a module returned: its structure, where tensors stand in it, and what else it holds."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

TENSOR = "Tensor"
_NUMBERS = (bool, int, float, complex, torch.SymInt, torch.SymFloat, torch.SymBool)
_PLAIN = (type(None), bool, int, float, complex, str, bytes, enum.Enum)
_KEYS = (str, int)
_MOST = 64
_DEEPEST = 4
Keys = tuple[Any, ...]


def form_of(value: Any, free: tuple[Keys, ...] = ()) -> Any:
    """Return a structure with ``"Tensor"`` in the place of each tensor, and a text in that of what has no form.

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
    return describe_form(value, lambda part, keys: keys in free and _is_number(part))


def _is_number(value: Any) -> bool:
    """Say whether a value is a number, or what stands for one while an extractor is exported or traced."""
    return isinstance(value, _NUMBERS) or (torch.jit.is_tracing() and isinstance(value, torch.Tensor))


def describe_form(value: Any, is_free: Callable[[Any, Keys], bool], keys: Keys = ()) -> Any:
    """Describe the form of a value.

    Args:
        value: what a module returned, or a part of it.
        is_free: says whether a part may be any number, by the keys that lead to it.
        keys: those that lead to the value.
    """
    if is_free(value, keys):
        return ...
    if isinstance(value, torch.Tensor):
        return TENSOR
    if isinstance(value, torch.Size):
        return f"Size of {tuple.__len__(value)}"
    if isinstance(value, _PLAIN):
        return value
    parts = _parts_of(value) if len(keys) < _DEEPEST else None
    if parts is None or len(parts) > _MOST or not all(isinstance(key, _KEYS) for key in parts):
        return f"a {type(value).__name__}"
    forms = {key: describe_form(part, is_free, (*keys, key)) for key, part in parts.items()}
    if isinstance(value, (tuple, list)):
        return tuple(forms.values()) if isinstance(value, tuple) else list(forms.values())
    return forms


def _parts_of(value: Any) -> dict[Any, Any] | None:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        # A recorded tuple writes down what it hands out.
        return dict(enumerate(tuple.__iter__(value)))
    if isinstance(value, list):
        return dict(enumerate(list.__iter__(value)))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    return None
