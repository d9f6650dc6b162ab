"""Attention masks, which some models take beside the image."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from fxfeat.errors import RequestError


def take_mask(model: nn.Module, attn_mask: torch.Tensor | None, is_causal: bool) -> dict[str, Any]:
    """Return what is to be passed on to a model of a mask, nothing where none is given.

    >>> take_mask(nn.Linear(2, 2), None, False)
    {}

    Raises:
        RequestError: where the model does not take it.
    """
    given = {"attn_mask": attn_mask} if attn_mask is not None else {}
    asked: dict[str, Any] = {**given, "is_causal": True} if is_causal else given
    parameters = inspect.signature(model.forward).parameters
    unknown = next((name for name in asked if name not in parameters), None)
    if unknown is None:
        return asked
    raise RequestError(
        f"{type(model).__name__}.forward takes ({', '.join(parameters)}), and no {unknown}; leave it out."
    )
