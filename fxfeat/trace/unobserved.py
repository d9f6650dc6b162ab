"""Keep the recorder's own questions to tensors out of the recording."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch


def unobserved() -> Any:
    """Return a region in which torch functions are unobserved."""
    return torch._C.DisableTorchFunction()


def unobserved_call(method: Callable[..., Any]) -> Callable[..., Any]:
    """Run a method with torch functions unobserved."""

    @functools.wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        with unobserved():
            return method(*args, **kwargs)

    return run
