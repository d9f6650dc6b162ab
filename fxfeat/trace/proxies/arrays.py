"""NumPy's arrays, without importing NumPy where nobody uses it."""

from __future__ import annotations

import sys
from typing import Any

import torch

from fxfeat.ir.tree import leaves_of
from fxfeat.trace.proxies.numbers import RECORDED
from fxfeat.trace.proxies.sequences import RecordedTuple


def arrays_alone(args: Any, kwargs: dict[str, Any]) -> bool:
    """Say whether a call makes a tensor from arrays and nothing that was recorded.

    >>> import numpy
    >>> arrays_alone((numpy.zeros(1), 2), {}), arrays_alone((torch.zeros(1), numpy.zeros(1)), {})
    (True, False)
    """
    numpy = sys.modules.get("numpy")
    operands = leaves_of((args, kwargs))
    if numpy is None or not any(isinstance(value, numpy.ndarray) for value in operands):
        return False
    return not any(isinstance(value, (torch.Tensor, *RECORDED, RecordedTuple)) for value in operands)


def plain_scalar(value: Any) -> Any:
    """Turn a NumPy scalar into Python's, and leave anything else alone.

    >>> import numpy
    >>> plain_scalar(numpy.float32(2.5)), plain_scalar("a")
    (2.5, 'a')
    """
    numpy = sys.modules.get("numpy")
    return value.item() if numpy is not None and isinstance(value, numpy.generic) else value
