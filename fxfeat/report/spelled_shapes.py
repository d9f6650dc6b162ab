"""Shapes and dtypes of what a node gave, as data and as text."""

from __future__ import annotations

from typing import Any

import torch

from fxfeat.ir.module_call import Opaque
from fxfeat.ir.node_meta import TensorMeta
from fxfeat.ir.tree import Build, map_structure, parts_of

NOTHING = "-"


def list_shapes(measured: Any) -> Any:
    """Put the shape in the place of each tensor of a structure.

    >>> list_shapes((TensorMeta((2, 3), torch.float32, (3, 1)), None))
    ((2, 3), None)
    """
    return map_structure(measured, _shape_or_name)


def _shape_or_name(part: Any) -> Any:
    if isinstance(part, TensorMeta):
        return part.shape
    if isinstance(part, Opaque):
        return part.type_name
    if isinstance(part, Build):
        return list_shapes(dict(part.fields))
    is_shown = part is None or isinstance(part, (bool, int, float, str, tuple, list, dict))
    return part if is_shown else type(part).__name__


def list_dtypes(measured: Any) -> tuple[str, ...]:
    """List the dtypes of a structure, each once, in the order in which they come.

    >>> list_dtypes([TensorMeta((2,), torch.int64, (1,)), 3])
    ('int64',)
    """
    return tuple(dict.fromkeys(spell_dtype(part.dtype) for part in parts_of(measured, TensorMeta)))


def spell_shape(shape: Any) -> str:
    """Write a shape, or a structure of shapes.

    >>> spell_shape(torch.Size([2, 3])), spell_shape({"a": (2,)}), spell_shape(None)
    ('(2, 3)', "{'a': (2,)}", '-')
    """
    if shape is None:
        return NOTHING
    return str(tuple(shape) if isinstance(shape, torch.Size) else shape)


def spell_dtype(dtype: Any) -> str:
    """Write a dtype without its module.

    >>> spell_dtype(torch.float32), spell_dtype(None)
    ('float32', '-')
    """
    return NOTHING if dtype is None else str(dtype).removeprefix("torch.")
