"""What a model keeps inside objects that have no ``__dict__`` is where it was after an extractor has been made."""

import array
import random

import numpy
import pytest
import torch
from torch import nn

import fxfeat

X = torch.rand(2, 4)


class Slots:
    __slots__ = ("count", "mean")

    def __init__(self):
        self.count, self.mean = 0, torch.zeros(4)


def count_in_slots(state):
    state.count += 1
    state.mean = state.mean + 1
    return state.count + state.mean.sum()


def count_bytes(state):
    state[0] += 1
    return state[0]


STATES = {
    "slots": (Slots, count_in_slots),
    "random.Random": (lambda: random.Random(3), lambda state: state.random()),
    "numpy's Generator": (lambda: numpy.random.default_rng(3), lambda state: float(state.random())),
    "numpy's RandomState": (lambda: numpy.random.RandomState(3), lambda state: float(state.rand())),
    "torch.Generator": (lambda: torch.Generator().manual_seed(3), lambda state: torch.rand((), generator=state)),
    "bytearray": (lambda: bytearray(1), count_bytes),
    "array": (lambda: array.array("i", [0]), count_bytes),
}


class Keeps(nn.Module):
    def __init__(self, state, step):
        super().__init__()
        self.layer, self.head, self.state, self.step = nn.Linear(4, 4), nn.Linear(4, 4), state, step

    def forward(self, x):
        return self.head(self.layer(x) + self.step(self.state))


@pytest.mark.parametrize("engine", ["auto", "tap"])
@pytest.mark.parametrize("kind", STATES)
@pytest.mark.filterwarnings("ignore:.*runs whole")
def test_the_first_run_is_the_first(kind, engine):
    make, step = STATES[kind]
    model, reference = Keeps(make(), step).eval(), Keeps(make(), step).eval()
    reference.load_state_dict(model.state_dict())
    extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=X, engine=engine)
    for _ in range(2):
        assert torch.equal(extractor(X)["head"], reference(X))
