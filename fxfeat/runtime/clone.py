"""Clone the tensors of a value, which emitted code does where a feature that is no tensor is overwritten later."""

from __future__ import annotations

from typing import Any

import torch

from fxfeat.ir.tree import DEEPEST, children, replace_children


def clone_all(values: Any) -> Any:
    """Clone each tensor of a tuple, a list, a dict or any other object, however many there are.

    >>> clone_all((torch.zeros(1), [2]))
    (tensor([0.]), [2])
    """
    return _clone_all(values, frozenset())


def _clone_all(values: Any, above: frozenset[int]) -> Any:
    if isinstance(values, torch.Tensor):
        return values.clone()
    if id(values) in above or len(above) >= DEEPEST:
        return values
    parts = [(step, held, _clone_all(held, above | {id(values)})) for step, held in children(values)]
    return replace_children(values, {step: new for step, held, new in parts if new is not held})
