"""Refuse tensors of transforms of torch.func, which have no value outside of them."""

from __future__ import annotations

from typing import Any

import torch

from fxfeat.errors import FxfeatError
from fxfeat.ir.tree import tensors


def refuse_transformed(name: str, value: Any, error: type[FxfeatError]) -> None:
    """Raise an error where a value holds a tensor that stands for others while a transform of torch.func runs."""
    if any(torch._C._functorch.is_functorch_wrapped_tensor(tensor) for _, tensor in tensors(value)):
        raise error(
            f"{name!r} is computed inside a transform of torch.func, such as vmap or grad, and has no value outside of "
            "it. Ask for what the module around the transform returns."
        )
