"""The invariants of recordings hold, and the check of them finds what breaks them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torchvision
from torch import nn

from fxfeat.ir.node_meta import amend
from fxfeat.ir.recording import Recording, lint
from fxfeat.trace.setup import read_setup, record_mode


class Nested(nn.Module):
    """Calls one module twice, and modules inside another."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(3, 3)
        self.inner = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(3, 3), nn.Dropout()))
        self.attention = nn.MultiheadAttention(3, 1)

    def forward(self, x):
        y = self.inner(self.shared(self.shared(x)))
        return self.attention(y, y, y)[0] + x


MODELS = {
    "nested": (Nested, (2, 3)),
    "resnet18": (torchvision.models.resnet18, (2, 3, 32, 32)),
    "swin": (torchvision.models.swin_t, (2, 3, 32, 32)),
}


def record(name: str, training: bool) -> Recording:
    build, shape = MODELS[name]
    return record_mode(read_setup(build(), None, None, torch.zeros(shape)), training)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_invariants_hold(name, training):
    lint(record(name, training))


def test_a_wrong_position_is_named():
    recording = record("nested", False)
    amend(recording.nodes[3], position=4)
    with pytest.raises(AssertionError, match="says that it is at 4, not 3"):
        lint(recording)


def test_a_wrong_owner_is_named():
    recording = record("nested", False)
    amend(recording.nodes[-1], module_call=1)
    with pytest.raises(AssertionError, match="is owned by module call 1, not 0"):
        lint(recording)


def test_a_module_call_outside_its_parent_is_named():
    recording = record("nested", False)
    first, second, *rest = recording.module_calls
    outside = dataclasses.replace(second, stop=first.stop + 1)
    with pytest.raises(AssertionError, match="module call 1 leaves its parent"):
        lint(dataclasses.replace(recording, module_calls=(first, outside, *rest)))
