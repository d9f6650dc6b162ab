"""Choose which modules run whole, with taps inside them: the smallest whose code cannot be written out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TypeVar

from fxfeat.errors import TraceError
from fxfeat.ir.source_lines import count_own_frames
from fxfeat.ir.tap import TappedModule

Result = TypeVar("Result")
_NONE: Mapping[str, str] = MappingProxyType({})


def choose_taps(attempt: Callable[[Mapping[str, str]], Result], first: Mapping[str, str] = _NONE) -> Result:
    """Try with more and more modules left whole, each time those whose code was refused.

    Args:
        attempt: does the work with some modules left whole; they are given with the reasons, by path.
        first: those that are left whole from the start.

    Raises:
        TraceError: where a refusal does not name a module, or the whole model is refused.
    """
    tapped: dict[str, str] = dict(first)
    while True:
        try:
            return attempt(tapped)
        except TraceError as error:
            path = _next_around(error.path, tapped)
            if path is None:
                raise
            tapped = {inner: why for inner, why in tapped.items() if path and not f"{inner}.".startswith(f"{path}.")}
            tapped[path] = error.reason


def _next_around(path: str | None, tapped: Mapping[str, str]) -> str | None:
    """Return a module, or the smallest one around it that is not left whole yet."""
    while path is not None and path in tapped:
        path = path.rpartition(".")[0] if path else None
    return path


def warn_of(tapped: Iterable[TappedModule], model: str) -> None:
    """Say which modules run whole, why, and what that costs."""
    for path, reason in tapped:
        warnings.warn(
            f"{f'{path!r} of ' if path else ''}{model} runs whole, with hooks that copy the features out of it: "
            f"{' '.join(reason.split())}. Such an extractor cannot be exported, and torch.compile breaks its graph "
            "there. Pass engine='code' to raise an error instead.",
            stacklevel=count_own_frames() + 1,
        )
