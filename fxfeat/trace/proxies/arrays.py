"""NumPy's arrays, without importing NumPy where nobody uses it."""

from __future__ import annotations

import sys
from typing import Any

import torch

from fxfeat.ir.tree import is_structure, leaves_of, parts_of
from fxfeat.trace.proxies.numbers import RECORDED
from fxfeat.trace.proxies.sequences import RecordedTuple


def arrays_alone(args: Any, kwargs: dict[str, Any]) -> bool:
    """Say whether a call makes a tensor from arrays and nothing that was recorded.

    >>> import numpy
    >>> arrays_alone((numpy.zeros(1), 2), {}), arrays_alone((torch.zeros(1), numpy.zeros(1)), {})
    (True, False)
    """
    numpy = sys.modules.get("numpy")
    _hand_out((args, kwargs))
    given = leaves_of((args, kwargs))
    if numpy is None or not any(isinstance(value, numpy.ndarray) for value in given):
        return False
    recorded = parts_of((args, kwargs), RecordedTuple)
    return not recorded and not any(isinstance(value, (torch.Tensor, *RECORDED)) for value in given)


def _hand_out(given: Any) -> None:
    """Write the elements of shapes that are given whole down: names of nodes count them."""
    for recorded in parts_of(given, RecordedTuple, _is_plain_structure):
        for element in recorded:
            _hand_out(element)


def _is_plain_structure(value: object) -> bool:
    return is_structure(value) and not isinstance(value, RecordedTuple)


def plain_scalar(value: Any) -> Any:
    """Turn a NumPy scalar into Python's, and leave anything else alone.

    >>> import numpy
    >>> plain_scalar(numpy.float32(2.5)), plain_scalar("a")
    (2.5, 'a')
    """
    numpy = sys.modules.get("numpy")
    return value.item() if numpy is not None and isinstance(value, numpy.generic) else value
