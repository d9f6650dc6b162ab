"""See regions of ``contextlib`` that end an error: code goes on behind them where another input fails inside."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from fxfeat.ir.source_lines import is_torch
from fxfeat.runtime.handlers import is_caught
from fxfeat.trace.builder.trace import Trace
from fxfeat.trace.patches.replacement import Replacement


def catching(trace: Trace) -> Iterator[Replacement]:
    """Yield what notes which of those regions code is in."""
    for region in (contextlib.suppress, contextlib._GeneratorContextManager):
        yield from _noting(trace, region, region.__enter__, region.__exit__)


def _noting(trace: Trace, region: Any, enter: Any, leave: Any) -> Iterator[Replacement]:
    def noting_enter(self: Any) -> Any:
        result = enter(self)
        if trace.calls.live_here and _catches(self):
            trace.obstacles.catching.append(self)
        return result

    def noting_exit(self: Any, *details: Any) -> Any:
        if trace.obstacles.catching:
            trace.obstacles.catching[:] = [other for other in trace.obstacles.catching if other is not self]
        return leave(self, *details)

    yield region, "__enter__", noting_enter
    yield region, "__exit__", noting_exit


def _catches(region: Any) -> bool:
    if isinstance(region, contextlib.suppress):
        return True
    frame = getattr(region.gen, "gi_frame", None)
    return frame is not None and not is_torch(frame) and is_caught(frame.f_code, frame.f_lasti)
