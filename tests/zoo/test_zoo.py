"""Whole zoos: ``python -m pytest -m zoo``, or a part of them with ``-k``; ``python -m tests.zoo`` says more."""

from __future__ import annotations

import pytest

from tests.zoo.families import entries
from tests.zoo.running import run_entries

pytestmark = pytest.mark.zoo


def pytest_generate_tests(metafunc):
    wanted = "zoo" in (metafunc.config.getoption("-m") or "")
    metafunc.parametrize("entry", list(entries()) if wanted else [], ids=str)


def test_every_module_equals_its_hook(entry):
    (result,) = run_entries([entry], jobs=1, limit=300, memory=12)
    if not result.runs:
        pytest.skip(f"{entry} does not run in eager mode: {result.eager_errors}")
    assert (result.wrong, result.failures) == ([], [])
    assert result.recorded
