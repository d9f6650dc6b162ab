"""Random modules, asked at random: what comes back is what eager PyTorch computed, or an ``FxfeatError``."""

from __future__ import annotations

import pytest
import torch

from tests.random_modules.rounds import Tally, run_round

ROUNDS = 12


@pytest.fixture(scope="module")
def tally():
    threads = torch.get_num_threads()
    total = Tally()
    for number in range(ROUNDS):
        total.merge(run_round(number))
        if total.counterexamples:
            break  # one is enough, and making it small takes minutes
    torch.set_num_threads(threads)
    return total


def test_every_value_is_that_of_eager(tally):
    assert not tally.counterexamples, "\n\n".join(map(str, tally.counterexamples))
    assert tally.ran >= 100
    assert tally.compared >= 1000
    assert tally.resized >= 100


def test_errors_are_rare(tally):
    assert tally.error_rate < 0.02, tally.errors
