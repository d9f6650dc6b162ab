"""Compare tensors of any kind by their values."""

from __future__ import annotations

import torch
from torch._C._functorch import is_functorch_wrapped_tensor


def is_equal(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Say whether two tensors hold the same values in the same shape and dtype; NaN is equal to NaN.

    Those on the meta device hold none, nor does what stands for others in a transform of ``torch.func``.

    Example:
        >>> is_equal(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.nan]))
        True
    """
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    if left.is_meta or right.is_meta:
        return left.is_meta and right.is_meta
    if is_functorch_wrapped_tensor(left) or is_functorch_wrapped_tensor(right):
        return is_functorch_wrapped_tensor(left) and is_functorch_wrapped_tensor(right)
    left, right = to_dense(left), to_dense(right)
    if left.is_quantized or not (left.is_floating_point() or left.is_complex()):
        return torch.equal(left, right)
    # Floats of eight bits can be told apart element by element only.
    if left.element_size() > 1 and torch.equal(left, right):
        return True
    return bool(((left == right) | (left.isnan() & right.isnan())).all())


def to_dense(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor's values without its history, which may be one that allows no further operations."""
    return tensor.detach() if tensor.layout == torch.strided else tensor.detach().to_dense()
