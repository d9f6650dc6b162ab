"""Refuse tensors of transforms of torch.func, which have no value outside of them."""

from __future__ import annotations

from typing import Any

import torch

from fxfeat.errors import FxfeatError
from fxfeat.ir.tree import tensors


def refuse_transformed(name: str, value: Any, error: type[FxfeatError]) -> None:
    """Raise an error where a value holds a tensor that stands for others while a transform of torch.func runs.

    One that only has a tangent, as in ``torch.func.jvp``, has its value outside as well.
    """
    if any(_stands_for_others(tensor) for _, tensor in tensors(value)):
        raise error(
            f"{name!r} is computed inside a transform of torch.func, such as vmap or grad, and has no value outside of "
            "it. Ask for what the module around the transform returns."
        )


def _stands_for_others(tensor: torch.Tensor) -> bool:
    functorch = torch._C._functorch
    if not functorch.is_functorch_wrapped_tensor(tensor):
        return False
    return not functorch.is_gradtrackingtensor(tensor) or not _has_tangent(tensor)


def _has_tangent(tensor: torch.Tensor) -> bool:
    inner = torch._C._functorch.get_unwrapped(tensor)
    return not torch._C._functorch.is_functorch_wrapped_tensor(inner) and not tensor.requires_grad
