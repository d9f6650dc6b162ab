"""Let a part of a value go through a function, which emitted code does where a call returns more than a tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fxfeat.errors import GuardError
from fxfeat.ir.tree import Steps, follow, replace_at, spell, walk


def replace_part(value: Any, steps: Steps, function: Callable[[Any], Any]) -> Any:
    """Return a value with the part that some steps lead to as a function returned it.

    Example:
        >>> replace_part((torch.ones(1), torch.ones(1)), (("item", 1),), torch.neg)
        (tensor([1.]), tensor([-1.]))

    Raises:
        GuardError: where what the function returned is not made of parts as what it was given.
    """
    part = follow(value, steps)
    result = function(part)
    if _form_of(result) != _form_of(part):
        where = f"the part at {spell(steps)} of " if steps else ""
        raise GuardError(
            f"A function in replace= was given {where}a {type(value).__name__}, and returned a {type(result).__name__} "
            "that is made otherwise. Return one of the same kind, with tensors in the same places."
        )
    return replace_at(value, steps, result)


def _form_of(value: Any) -> list[tuple[Steps, Any]]:
    return [
        (steps, torch.Tensor if isinstance(part, torch.Tensor) else type(part)) for steps, part in walk(tuple_of(value))
    ]


def tuple_of(value: Any) -> Any:
    """Take a tuple of any class for a plain one."""
    return tuple(tuple.__iter__(value)) if isinstance(value, tuple) and not hasattr(value, "_fields") else value
