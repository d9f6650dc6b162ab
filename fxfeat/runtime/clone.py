"""Clone the tensors of a value, which emitted code does where a feature that is no tensor is overwritten later."""

from __future__ import annotations

from typing import Any

import torch

from fxfeat.ir.tree import map_parts


def clone_all(values: Any) -> Any:
    """Clone each tensor of a tuple, a list, a dict or any other object, however many there are.

    >>> clone_all((torch.zeros(1), [2]))
    (tensor([0.]), [2])
    """
    return map_parts(values, lambda part: part.clone() if isinstance(part, torch.Tensor) else part)
