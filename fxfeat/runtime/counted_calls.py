"""Number the calls of modules, as hooks see them begin and return."""

from __future__ import annotations

import sys
import types
from collections import Counter
from typing import NamedTuple

from torch import nn


class CallUnderWay(NamedTuple):
    """A call of a module that has begun: its number among the module's calls, and the frame that makes it."""

    module: nn.Module
    number: int
    frame: types.FrameType


class CountedCalls:
    """Numbers the calls of each module as they begin; one that raises does not count, for no hook sees it return."""

    def __init__(self) -> None:
        self.counts: Counter[nn.Module] = Counter()
        self.under_way: list[CallUnderWay] = []

    def enter(self, module: nn.Module, frame: types.FrameType) -> int:
        """Note that a module is called, by a frame; return the number of the call."""
        while self.under_way and not _is_running(self.under_way[-1].frame):
            self._give_up()
        number = self.counts[module]
        self.counts[module] += 1
        self.under_way.append(CallUnderWay(module, number, frame))
        return number

    def leave(self, module: nn.Module) -> int:
        """Note that a module has returned; return the number of the call. Calls inside that failed end with it."""
        while self.under_way and self.under_way[-1].module is not module:
            self._give_up()
        return self.under_way.pop().number if self.under_way else self.counts[module] - 1

    def _give_up(self) -> None:
        failed = self.under_way.pop()
        if self.counts[failed.module] == failed.number + 1:
            self.counts[failed.module] -= 1


def _is_running(frame: types.FrameType) -> bool:
    """Say whether a frame of this thread has not ended."""
    current: types.FrameType | None = sys._getframe(2)
    while current is not None and current is not frame:
        current = current.f_back
    return current is not None
