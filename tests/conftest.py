"""What every test starts from."""

import gc
import os

import pytest
import torch

from tests.oracle import seed

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each process has a core of its own, and those that it starts compute as it does.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

# Half the time would go to looking for garbage: in what torch holds for good, and after every 700 objects.
gc.freeze()
gc.set_threshold(10_000, 10, 10)


@pytest.fixture(autouse=True)
def _seed() -> None:
    seed(0)
