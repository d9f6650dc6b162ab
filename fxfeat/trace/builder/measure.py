"""What is known of a value without its data: shapes, dtypes, memory and versions."""

from __future__ import annotations

import enum
import types
from typing import Any

import torch

from fxfeat.ir.node_meta import Storage, TensorMeta, measure
from fxfeat.ir.tree import map_structure, tensors
from fxfeat.trace.proxies import numbers

LITERALS = (
    *(type(None), bool, int, float, complex, str, bytes, type(Ellipsis), torch.dtype, torch.device, torch.layout),
    *(torch.memory_format, enum.Enum, range, type, types.FunctionType, types.BuiltinFunctionType, torch.Generator),
)
"""Types of values that a graph can hold as they are."""


def measure_all(value: Any) -> Any:
    """Measure every tensor of a value, keeping tuples, lists, dicts and literals."""
    return map_structure(value, _measured)


def _measured(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        # Rows of several lengths have no shape, but for their number.
        if value.is_nested and value.layout == torch.strided:
            return TensorMeta((value.size(0),), value.dtype, ())
        return measure(value)
    if isinstance(value, numbers.RECORDED):
        return numbers.plain(value)
    if isinstance(value, (tuple, list, dict, *LITERALS)):
        return value
    return tuple(measure(tensor) for _, tensor in tensors(value))


def storage_of(tensor: torch.Tensor) -> Storage:
    """Return the identity of the memory that ``tensor`` looks at."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse and nested tensors have no storage of their own
        return id(tensor)


def version_of(tensor: torch.Tensor) -> int:
    """Return the counter that writing to a tensor, or to a view of it, advances."""
    return 0 if tensor.is_inference() else tensor._version
