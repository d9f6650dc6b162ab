"""What every test starts from."""

import os

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # each process has a core of its own


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
