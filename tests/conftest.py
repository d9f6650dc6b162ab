"""What every test starts from."""

import os

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each process has a core of its own, and those that it starts compute as it does.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
