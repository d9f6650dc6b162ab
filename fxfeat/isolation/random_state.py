"""The states of all generators of random numbers that a model's code may draw from."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class RandomState:
    """What torch, Python and NumPy draw from; NumPy's is None where nobody uses it."""

    cpu: torch.Tensor
    cuda: tuple[torch.Tensor, ...]
    python: Any
    numpy: Any


def read_random() -> RandomState:
    """Read the states of torch, Python and NumPy.

    Example:
        >>> state = read_random()
        >>> drawn = random.random(), float(torch.rand(1))
        >>> restore_random(state)
        >>> drawn == (random.random(), float(torch.rand(1)))
        True
    """
    has_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    cuda = tuple(torch.cuda.get_rng_state_all()) if has_cuda else ()
    return RandomState(torch.get_rng_state(), cuda, random.getstate(), _numpy_state())


def draw_from_each() -> None:
    """Draw a number from torch, Python and NumPy, so that what is drawn next is something else."""
    torch.rand(1), random.random()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.rand()


def restore_random(state: RandomState) -> None:
    """Put the states back."""
    torch.set_rng_state(state.cpu)
    if state.cuda:
        torch.cuda.set_rng_state_all(state.cuda)
    random.setstate(state.python)
    if state.numpy is not None:
        sys.modules["numpy"].random.set_state(state.numpy)


def outside_torch() -> Any:
    """Return what tells whether Python or NumPy drew a random number since."""
    numpy = _numpy_state()
    return random.getstate(), None if numpy is None else (numpy[1].tobytes(), numpy[2:])


def _numpy_state() -> Any:
    numpy = sys.modules.get("numpy")
    return None if numpy is None else numpy.random.get_state()
