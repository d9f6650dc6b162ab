"""Whole zoos: ``python -m pytest -m zoo``, or a part of them with ``-k transformers``."""

from __future__ import annotations

import pytest

from tests.zoo.check import check_model
from tests.zoo.families import MOST_PARAMETERS, entries

pytestmark = pytest.mark.zoo


def pytest_generate_tests(metafunc):
    wanted = "zoo" in (metafunc.config.getoption("-m") or "")
    metafunc.parametrize("entry", list(entries()) if wanted else [], ids=str)


def test_every_module_equals_its_hook(entry):
    model = entry.build()
    if sum(parameter.numel() for parameter in model.parameters()) > MOST_PARAMETERS:
        pytest.skip(f"{entry} has more than {MOST_PARAMETERS} parameters, too many for this machine's memory")
    outcome = check_model(model, entry.inputs)
    assert outcome.compared > 0
    assert (outcome.wrong, outcome.failed) == ([], [])
