"""Features over memory that the model keeps: later calls write to it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import same

BATCHES = [torch.rand(2, 4) for _ in range(3)]


class Centre(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("centre", torch.zeros(4))

    def forward(self, x):
        self.centre.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return self.centre


class Cache(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("kept", torch.zeros(5, 4))

    def forward(self, x):
        self.kept[:2].copy_(x)
        return self.kept[1:3]


class Around(nn.Module):
    def __init__(self, child):
        super().__init__()
        self.child = child

    def forward(self, x):
        return x - self.child(x).mean(0)


class Returned(nn.Module):
    def __init__(self):
        super().__init__()
        self.same = nn.Identity()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        self.mean.lerp_(x.mean(0), 0.1)
        return x - self.same(self.mean)


@pytest.mark.parametrize(
    ("model", "name"),
    [(Around(Centre()), "child"), (Around(Cache()), "child"), (Centre(), "output"), (Returned(), "same")],
)
def test_a_feature_stays_what_it_was_when_the_next_call_writes(model, name):
    reference, seen = copy.deepcopy(model), []
    hooked = reference if name == "output" else reference.get_submodule(name)
    hooked.register_forward_hook(lambda module, given, result: seen.append(result.clone()))
    extractor = fxfeat.create_feature_extractor(model, [name], example_inputs=BATCHES[0])
    found = [extractor(x)[name] for x in BATCHES]
    for x in BATCHES:
        reference(x)
    assert all(map(same, found, seen))


def test_the_copy_is_in_the_code():
    extractor = fxfeat.create_feature_extractor(Around(Centre()), ["child"], example_inputs=BATCHES[0])
    assert (
        extractor.code
        == """\
import torch


def forward(self, x):
    x = self.child(x)
    child = torch.clone(x)
    return {'child': child}
"""
    )


class ReadsItsTable(nn.Module):
    def __init__(self):
        super().__init__()
        self.same = nn.Identity()
        self.register_buffer("table", torch.zeros(4))

    def forward(self, x):
        return x + self.same(self.table)


def test_what_nobody_writes_to_is_not_copied():
    extractor = fxfeat.create_feature_extractor(ReadsItsTable(), ["same"], example_inputs=BATCHES[0])
    assert "clone" not in extractor.code
