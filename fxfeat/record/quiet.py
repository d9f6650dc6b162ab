"""Keep the recorder's own questions to tensors out of the recording."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch


def quietly(method: Callable[..., Any]) -> Callable[..., Any]:
    """Run a method with torch functions unobserved."""

    @functools.wraps(method)
    def quiet(*args: Any, **kwargs: Any) -> Any:
        with torch._C.DisableTorchFunction():
            return method(*args, **kwargs)

    return quiet
