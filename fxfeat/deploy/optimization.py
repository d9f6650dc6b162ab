"""What ``extractor.optimize`` did: the steps, the times, and how far the features are from what they were."""

from __future__ import annotations

from dataclasses import dataclass

from fxfeat.ir.shown import Shown, describe


@dataclass(frozen=True)
class Step:
    """One step that was tried: what it does, and whether it was kept; ``why`` says why not."""

    what: str
    kept: bool
    why: str = ""


@dataclass(frozen=True)
class Optimization(Shown):
    """The report of an optimization.

    ``seconds_before`` and ``seconds_after`` are medians of runs in turn on the user's example. ``differences`` are
    max|a - b| / max|a| by key.
    """

    steps: tuple[Step, ...]
    seconds_before: float
    seconds_after: float
    differences: dict[str, float]

    @property
    def ratio(self) -> float:
        """The time after, in parts of the time before."""
        return self.seconds_after / self.seconds_before

    def __str__(self) -> str:
        return describe(self)
