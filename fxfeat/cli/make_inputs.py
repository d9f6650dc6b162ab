"""Example inputs: of the shapes that the user typed, or worked out from the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fxfeat.cli.usage import UsageError, suggest
from fxfeat.inputs.examples import guess_examples
from fxfeat.ir.example import Example
from fxfeat.ir.tree import is_structure, map_parts, tensors

_DTYPES = {
    name: getattr(torch, name)
    for name in ("float16", "bfloat16", "float32", "float64", "complex64", "int32", "int64", "uint8", "bool")
}


def make_inputs(model: nn.Module, shapes: Sequence[str]) -> tuple[torch.Tensor, ...] | None:
    """Make one random tensor per ``--input-shape``; None where none was typed.

    Whether a shape without a dtype means numbers or the indices of words is worked out from the model.

    >>> [tensor.dtype for tensor in make_inputs(nn.Linear(4, 3), ["2,4", "2,4:int64"])]
    [torch.float32, torch.int64]

    Raises:
        UsageError: where a shape cannot be read.
    """
    if not shapes:
        return None
    read = [read_shape(shape) for shape in shapes]
    usual = _guess_dtypes(model)
    usual += [torch.float32] * (len(read) - len(usual))
    return tuple(_fill(model, shape, dtype or other) for (shape, dtype), other in zip(read, usual, strict=False))


def read_shape(text: str) -> tuple[tuple[int, ...], torch.dtype | None]:
    """Read ``2,3,224,224`` or ``2,16:int64``.

    >>> read_shape("2,16:int64")
    ((2, 16), torch.int64)

    Raises:
        UsageError: for anything else.
    """
    sizes, colon, name = text.strip().strip("()[]").partition(":")
    parts = [part.strip() for part in sizes.replace("x", ",").split(",")]
    if not all(part.isdigit() for part in parts):
        raise UsageError(f"--input-shape is {text!r}; write sizes with commas between them, as in 2,3,224,224.")
    if colon and name not in _DTYPES:
        choices = ", ".join(_DTYPES)
        raise UsageError(f"--input-shape is {text!r}, but {name!r} is none of {choices}.{suggest(name, _DTYPES)}")
    return tuple(map(int, parts)), _DTYPES.get(name)


def _guess_dtypes(model: nn.Module) -> list[torch.dtype]:
    guessed = next(guess_examples(model), Example())
    return [tensor.dtype for _, tensor in tensors((guessed.args, guessed.kwargs))]


def _fill(model: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    if dtype.is_floating_point or dtype.is_complex:
        return torch.rand(shape, dtype=dtype)
    words = [module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)]
    return torch.randint(0, 2 if dtype is torch.bool else min(words, default=2), shape).to(dtype)


def draw_again(example: Example) -> Example:
    """Draw other random values of the same shapes; whole numbers change places only, so that they stay valid."""
    return Example(*map_parts((example.args, example.kwargs), _drawn, is_structure))


def _drawn(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    if value.is_floating_point():
        return torch.rand_like(value)
    return value.flatten()[torch.randperm(value.numel())].reshape(value.shape)


def as_inputs(example: Example) -> Any:
    """Turn an example into ``example_inputs``; None where it is of both kinds, which has to be worked out again."""
    if example.args and example.kwargs:
        return None
    return example.args or example.kwargs
