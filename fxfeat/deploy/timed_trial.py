"""Time two ways to do the same on a user's example."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

_ROUNDS = 5
_MOST_ROUNDS = 50
_SECONDS = 2.0


def time_in_turn(*ways: Callable[[], object]) -> list[float]:
    """Run each of several ways in turn, again and again, and return the median of the seconds that each took.

    Args:
        ways: what is to be timed; each is run once beforehand, which is not counted.
    """
    for run in ways:
        run()
    seconds: list[list[float]] = [[] for _ in ways]
    end = time.perf_counter() + _SECONDS
    while len(seconds[0]) < _ROUNDS or (time.perf_counter() < end and len(seconds[0]) < _MOST_ROUNDS):
        for run, taken in zip(ways, seconds, strict=True):
            taken.append(_time(run))
    return [statistics.median(taken) for taken in seconds]


def _time(run: Callable[[], object]) -> float:
    _wait()
    start = time.perf_counter()
    run()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
