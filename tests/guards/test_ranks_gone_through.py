"""Code that goes through the sizes of an input, however many there are."""

from __future__ import annotations

import itertools
import operator

import pytest
import torch
from torch import nn

import fxfeat

EXAMPLE = torch.rand(2, 4, 5)
WAYS = {
    "star": lambda shape: (*shape, 7)[2],
    "sum": sum,
    "comprehension": lambda shape: [size + 1 for size in shape][-2],
    "enumerate": lambda shape: sum(size * index for index, size in enumerate(shape)),
    "zip": lambda shape: sum(a * b for a, b in zip(shape, (1, 2, 3, 4))),  # noqa: B905
    "map": lambda shape: list(map(int, shape))[1],
    "accumulate": lambda shape: list(itertools.accumulate(shape, operator.mul))[-1],
    "sorted": lambda shape: sorted(shape)[0],
    "any": lambda shape: 2 if any(size == 3 for size in shape) else 3,
}


class GoesThrough(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.linear, self.way = nn.Linear(5, 4), way

    def forward(self, x):
        return self.linear(x) * self.way(x.shape)


class GoesThroughStrides(GoesThrough):
    def forward(self, x):
        return self.linear(x) * self.way(x.stride())


class UnpacksWithAStar(GoesThrough):
    def forward(self, x):
        *lead, width = x.shape
        return self.linear(x.reshape(-1, width)).reshape(*lead, 4)


class UnpacksTheMiddle(GoesThrough):
    def forward(self, x):
        _, *middle, _ = x.shape
        return self.linear(x).mean(tuple(range(1, len(middle) + 1)))


def assert_right_or_refused(model):
    extractor = fxfeat.create_feature_extractor(model.eval(), ["output"], example_inputs=EXAMPLE)
    assert torch.equal(extractor(EXAMPLE)["output"], model(EXAMPLE))
    for shape in ((4, 5), (2, 3, 4, 5)):
        with pytest.raises(fxfeat.GuardError):
            extractor(torch.rand(shape))


@pytest.mark.parametrize("kind", [GoesThrough, GoesThroughStrides])
@pytest.mark.parametrize("way", WAYS)
def test_another_rank_is_refused(way, kind):
    assert_right_or_refused(kind(WAYS[way]))


@pytest.mark.parametrize("kind", [UnpacksWithAStar, UnpacksTheMiddle])
def test_a_star_takes_any_number(kind):
    assert_right_or_refused(kind(None))


class UnpacksAll(nn.Module):
    def forward(self, x):
        batch, length, width = x.shape
        return x.reshape(batch * length, width)


def test_an_unpacking_of_all_sizes_needs_no_check():
    code = fxfeat.create_feature_extractor(UnpacksAll(), ["output"], example_inputs=EXAMPLE).code
    assert "check(" not in code
