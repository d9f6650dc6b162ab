"""Parts of a size that code takes in Python, rounded: a size that is a little larger gives the same."""

from __future__ import annotations

import fractions
import math

import numpy as np
import pytest
import torch
from torch import nn

import fxfeat
from fxfeat.inputs.resized import find_groups, growths
from fxfeat.ir.example import Example

EXAMPLE, OTHER = torch.randn(9, 4), torch.randn(31, 4)


class Keeps(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.ratio, self.times, self.ratios = 0.25, 2, [0.25]

    def forward(self, x):
        return self.linear(x)[: self.count(x.size(0))]


def keeps(count):
    return type("KeepsSome", (Keeps,), {"count": count})().eval()


WRITTEN = {
    "product_of_attributes": lambda self, n: int(self.ratio * self.times * n / 2),
    "one_minus": lambda self, n: int((1 - self.ratio) * n / 3),
    "negative": lambda self, n: int(abs(-self.ratio) * n),
    "root": lambda self, n: int(math.sqrt(1 / 16) * n),
    "made_a_float": lambda self, n: math.floor(float(self.ratio * 1) * n),
    "from_the_right": lambda self, n: int(n * self.ratio),
}
GUARDED = {
    "out_of_a_list": lambda self, n: int(self.ratios[0] * n),
    "fraction": lambda self, n: int(fractions.Fraction(1, 4) * n),
    "numpy_left": lambda self, n: int(np.float64(0.25) * n),
    "numpy_right": lambda self, n: int(n * np.float64(0.25)),
    "numpy_array": lambda self, n: np.arange(n)[::4].size,
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_what_is_written_out_is_right_at_other_sizes(kind):
    model = keeps(WRITTEN[kind])
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=EXAMPLE)
    assert torch.equal(extractor(OTHER)["output"], model(OTHER))


@pytest.mark.parametrize("kind", GUARDED)
def test_what_is_lost_is_checked(kind):
    model = keeps(GUARDED[kind])
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=EXAMPLE)
    assert torch.equal(extractor(EXAMPLE)["output"], model(EXAMPLE))
    with pytest.raises(fxfeat.GuardError):
        extractor(OTHER)


def test_other_sizes_are_far_from_the_example_and_of_other_parity():
    batch = [find_groups(Example((torch.zeros(size, 3, 8, 8),)))[0] for size in (1, 2, 9, 32, 33, 64)]
    assert [growths(group)[0](group.axes[0]) for group in batch] == [4, 7, 28, 97, 98, 129]
