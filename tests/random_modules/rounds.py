"""Run Hypothesis in short rounds, each with a seed of its own, and add up what became of the cases."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.random_modules.check import Mismatch, Outcome, check
from tests.random_modules.strategy import Case, cases

ROUND = 10
"""Hypothesis varies the cases that it has once it has ten, which makes many that are nearly the same."""


@dataclass
class Counterexample:
    """A case that failed, as small as Hypothesis could make it."""

    seed: int
    case: Case
    message: str

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.message}\n{self.case!r}"


@dataclass
class Tally:
    """What became of many cases."""

    cases: int = 0
    refused: int = 0
    compared: int = 0
    resized: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    guarded: Counter[str] = field(default_factory=Counter)
    counterexamples: list[Counterexample] = field(default_factory=list)

    @property
    def ran(self) -> int:
        """How many models ran in eager PyTorch."""
        return self.cases - self.refused

    @property
    def error_rate(self) -> float:
        return self.errors.total() / max(self.ran, 1)

    def add(self, outcome: Outcome) -> None:
        self.cases += 1
        self.refused += outcome.refused
        self.compared += outcome.compared
        self.resized += outcome.resized
        self.errors.update([outcome.error] if outcome.error else [])
        self.guarded.update(outcome.guarded[:1])

    def merge(self, other: Tally) -> None:
        for name in ("cases", "refused", "compared", "resized", "errors", "guarded", "counterexamples"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def run_round(number: int, shrink: bool = True) -> Tally:
    """Check ten cases; what Hypothesis tries while it makes a counterexample smaller is not counted."""
    tally, failed = Tally(), []

    @seed(number)
    @settings(
        max_examples=ROUND,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(cases())
    def every_value_is_that_of_eager(case: Case) -> None:
        try:
            outcome = check(case)
        except Mismatch as mismatch:
            failed.append(Counterexample(number, case, str(mismatch)))
            raise
        if not failed:
            tally.add(outcome)

    torch.set_num_threads(1)
    try:
        every_value_is_that_of_eager()
    except Exception:
        # Hypothesis groups what it finds; and where it finds nothing, something else is broken.
        if not failed:
            raise
        tally.cases += 1
        tally.counterexamples.append(min(failed, key=lambda held: len(held.case.source)))
    return tally
