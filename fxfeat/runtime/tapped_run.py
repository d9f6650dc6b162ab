"""What one tapped run has seen so far."""

from __future__ import annotations

import contextvars
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from fxfeat.errors import GuardError
from fxfeat.ir.tap import Tap, TappedCall
from fxfeat.ir.tree import follow, has
from fxfeat.runtime.clone import clone_all
from fxfeat.runtime.counted_calls import CountedCalls
from fxfeat.runtime.handlers import would_notice
from fxfeat.runtime.transformed import refuse_transformed


class Trial(Protocol):
    """Looks at a model where a run begins, and where it would be stopped; the run goes on to its end."""

    def begin(self) -> None:
        """Look, where the run begins."""

    def end(self) -> None:
        """Look, where the run would be stopped."""


TRIAL: contextvars.ContextVar[Trial | None] = contextvars.ContextVar("fxfeat trial", default=None)
"""What looks on in place of stopping runs."""


class _LooksAtNothing:
    def begin(self) -> None: ...

    def end(self) -> None: ...


@contextmanager
def never_stopped() -> Iterator[None]:
    """Let runs go on to their end: one that is being recorded would be left with calls that never return."""
    token = TRIAL.set(_LooksAtNothing())
    try:
        yield
    finally:
        TRIAL.reset(token)


class LastValueSeen(BaseException):
    """Stops a run behind its last value; no ``Exception``, since a model's code may catch those."""

    def __init__(self, run: TappedRun) -> None:
        super().__init__("the last value that is tapped has been seen")
        self.run = run


class TappedRun:
    """Counts the calls of modules, and keeps a copy of each value; ``fused`` names the fused kernels that ran.

    Only what the thread does that began the run counts, and not what is computed again in a backward pass. Where the
    model's own code would notice that the run is stopped, as ``except:`` does, it runs on.
    """

    def __init__(self, call: TappedCall, frame: types.FrameType) -> None:
        self.call = call
        self._frame: types.FrameType | None = frame
        self.values: dict[str, Any] = {}
        self.lists: dict[str, dict[int, Any]] = {tap.name: {} for tap in call.taps if tap.every}
        self.calls = CountedCalls()
        self.fused: list[str] = []
        self._thread = threading.get_ident()
        self._backward = torch._C._current_graph_task_id()

    def is_ours(self) -> bool:
        """Say whether what happens right now belongs to this run."""
        return self._thread == threading.get_ident() and self._backward == torch._C._current_graph_task_id()

    def copy_listed(self, tap: Tap, value: Any, number: int) -> None:
        """Keep a copy of a value for call ``number`` of a module, where the steps of a tap lead somewhere in it."""
        if has(value, tap.steps):
            self.lists[tap.name][number] = _copy_of(tap, value)

    def copy(self, tap: Tap, value: Any) -> None:
        """Keep a copy of a value, where the steps of a tap lead somewhere in it.

        Raises:
            LastValueSeen: where it was the last one, and the run is to stop there.
        """
        if not has(value, tap.steps):
            return
        self.keep(tap, _copy_of(tap, value))

    def keep(self, tap: Tap, copied: Any) -> None:
        """Keep what was copied.

        Raises:
            LastValueSeen: where it was the last one, and the run is to stop there.
        """
        self.values[tap.name] = copied
        if not self.is_complete() or not self.call.stops:
            return
        trial = TRIAL.get()
        if trial is not None:
            trial.end()
        elif not would_notice(sys._getframe(1), self._frame):
            raise LastValueSeen(self)

    def end(self) -> None:
        """Let go of the frame that began the run, and put each list in the order of the calls."""
        self._frame = None
        self.calls.under_way.clear()
        for name, values in self.lists.items():
            self.values[name] = [values[number] for number in sorted(values)]

    def is_complete(self) -> bool:
        """Say whether every value has been seen."""
        return len(self.values) == len(self.call.taps)


def _copy_of(tap: Tap, value: Any) -> Any:
    part = follow(value, tap.steps)
    refuse_transformed(tap.name, part, GuardError)
    return clone_all(part)
