"""Shapes and dtypes of what a node gave, as data and as text."""

from __future__ import annotations

from typing import Any

import torch

from fxfeat.ir.module_call import Build, Opaque
from fxfeat.ir.node_meta import TensorMeta

NOTHING = "-"


def list_shapes(measured: Any) -> Any:
    """Put the shape in the place of each tensor of a structure.

    >>> list_shapes((TensorFacts((2, 3), torch.float32, (3, 1)), None))
    ((2, 3), None)
    """
    if isinstance(measured, TensorMeta):
        return measured.shape
    if isinstance(measured, Build):
        return {name: list_shapes(held) for name, held in measured.fields}
    if isinstance(measured, dict):
        return {key: list_shapes(held) for key, held in measured.items()}
    if isinstance(measured, (tuple, list)):
        shapes = [list_shapes(held) for held in measured]
        return tuple(shapes) if isinstance(measured, tuple) else shapes
    return _name_other(measured)


def _name_other(value: Any) -> Any:
    if isinstance(value, Opaque):
        return value.type_name
    plain = value is None or isinstance(value, (bool, int, float, str))
    return value if plain else type(value).__name__


def list_dtypes(measured: Any) -> tuple[str, ...]:
    """List the dtypes of a structure, each once, in the order in which they come.

    >>> list_dtypes([TensorFacts((2,), torch.int64, (1,)), 3])
    ('int64',)
    """
    if isinstance(measured, TensorMeta):
        return (spell_dtype(measured.dtype),)
    if isinstance(measured, Build):
        return list_dtypes([held for _, held in measured.fields])
    held = list(measured.values()) if isinstance(measured, dict) else measured
    if not isinstance(held, (tuple, list)):
        return ()
    return tuple(dict.fromkeys(dtype for part in held for dtype in list_dtypes(part)))


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
