"""Keep the example that a model was recorded with in the model's dtype."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fxfeat.ir.example import Example
from fxfeat.trace.setup import Setup


def dtype_of(model: nn.Module) -> torch.dtype | None:
    """Return the dtype of a model's first floating parameter.

    >>> dtype_of(nn.Linear(2, 2).double())
    torch.float64
    """
    return next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), None)


def match_example(setup: Setup, before: torch.dtype | None) -> torch.dtype | None:
    """Follow a model that was cast since it was recorded: cast the example, and forget the recordings.

    Args:
        setup: the model, its example and its recordings; changed in place.
        before: the dtype that the model had.

    Returns:
        The dtype that it has.
    """
    dtype = dtype_of(setup.model)
    if dtype is None or before is dtype:
        return before

    def cast(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.dtype is before else value

    args, kwargs = setup.examples[0].args, setup.examples[0].kwargs
    setup.examples = (Example(tuple(map(cast, args)), {name: cast(value) for name, value in kwargs.items()}),)
    setup._recordings.clear()
    return dtype
