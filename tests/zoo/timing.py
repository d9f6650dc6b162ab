"""How many eager forwards' time ``verify`` takes, in seconds of processor time: other processes take none of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import fxfeat
from tests.oracle import call
from tests.zoo.result import Result

FAST, SLOW = 0.2, 1.0


def time_verify(model: nn.Module, whole: Any, one: Any, inputs: Any, result: Result) -> None:
    """Measure, in turns, an eager forward, ``verify`` of all modules, and of one."""
    steps: list[Callable[[], Any]] = [lambda: call(model, inputs), lambda: _verify(model, whole, inputs)]
    steps += [lambda: _verify(model, one, inputs)] if one is not None else []
    with torch.no_grad():
        try:
            medians = _medians(steps)
        except fxfeat.GuardError:
            return
        except Exception as error:
            result.failures.append(f"eval, verify: {type(error).__name__}: {error}"[:300])
            return
    result.forward_seconds = medians[0]
    result.verify_all = medians[1] / medians[0]
    result.verify_one = medians[2] / medians[0] if one is not None else None


def _verify(model: nn.Module, extractor: Any, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return fxfeat.verify(model, extractor, **inputs)
    return (
        fxfeat.verify(model, extractor, *inputs)
        if isinstance(inputs, tuple)
        else fxfeat.verify(model, extractor, inputs)
    )


def _medians(steps: list[Callable[[], Any]]) -> list[float]:
    first = [_seconds(step) for step in steps]
    repeats = 7 if first[0] < FAST else 3 if first[0] < SLOW else 1
    rounds = [[_seconds(step) for step in steps] for _ in range(repeats)]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def _seconds(step: Callable[[], Any]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start
