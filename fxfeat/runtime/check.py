"""Check at run time that an input takes the branch that was recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from fxfeat.errors import GuardError

_PLAIN = (bool, int, float, complex, str, bytes)


def raised(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Say which error a call ends in, for code that catches it.

    Example:
        >>> raised(int, "one"), raised(int, "1")
        ('ValueError', 'no error')
    """
    try:
        function(*args, **kwargs)
    except Exception as error:
        return type(error).__name__
    return "no error"


def leaves_fast_path(*tensors: Any) -> Any:
    """Say whether torch's own modules run their plain code on some tensors, and not a kernel that rounds otherwise.

    Example:
        >>> with torch.no_grad():
        ...     leaves_fast_path(torch.ones(1, requires_grad=True))
        False
    """
    proxy = next((tensor for tensor in tensors if isinstance(tensor, fx.Proxy)), None)
    if proxy is not None:
        return proxy.tracer.create_proxy("call_function", leaves_fast_path, tensors, {})
    if torch.is_autocast_enabled() or not torch.backends.mha.get_fastpath_enabled():
        return True
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def check(actual: Any, expected: Any, place: str) -> None:
    """Raise unless ``actual`` is what it was while recording.

    Args:
        actual: the size, decision or argument as it is now.
        expected: the same while recording.
        place: the file, the line and the source of the decision.

    Raises:
        GuardError: naming the place.

    Example:
        >>> check(2, 2, "model.py:3: `for row in x:`")
    """
    if isinstance(actual, fx.Proxy):
        # What traces an extractor with torch.fx gets the check as one call.
        actual.tracer.create_proxy("call_function", check, (actual, expected, place), {})
        return
    if actual is expected or _is_same(actual, expected):
        return
    raise GuardError(
        f"This input takes another path than the recorded one: at {place} the recording saw {expected!r}, this input "
        f"gives {_spell(actual)}. Create the extractor again with example_inputs= like this input."
    )


def _spell(actual: Any) -> str:
    if isinstance(actual, torch.Tensor):
        return f"a tensor of {tuple(actual.shape)} {str(actual.dtype).removeprefix('torch.')}"
    return repr(actual)


def _is_same(actual: Any, expected: Any) -> bool:
    """Compare values, and their kinds: code tells 1 from True and from 1.0.

    While the code is exported a size is a symbol, which is of no plain kind.
    """
    if isinstance(actual, torch.Tensor):
        return False
    if type(actual) in _PLAIN and type(expected) in _PLAIN and type(actual) is not type(expected):
        return False
    if type(actual) in (tuple, list) and type(expected) is type(actual):
        return len(actual) == len(expected) and all(map(_is_same, actual, expected))
    if type(actual) is dict and type(expected) is dict:
        return actual.keys() == expected.keys() and all(_is_same(actual[key], value) for key, value in expected.items())
    same = actual == expected
    return getattr(same, "ndim", 0) == 0 and bool(same)  # an array is compared element by element
