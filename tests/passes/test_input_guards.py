"""Checks of inputs are written whatever the parameters of ``forward`` are called."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import fxfeat


class ByTheBatch(nn.Module):
    """The size of the batch reaches the code by way of NumPy and a text."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def scale(self, given):
        return self.linear(given) * float(str(len(np.zeros(given.shape[0]))))


class TakesX(ByTheBatch):
    def forward(self, x):
        return self.scale(x)


class TakesInput(ByTheBatch):
    def forward(self, input):
        return self.scale(input)


@pytest.mark.parametrize("kind", [TakesX, TakesInput])
def test_a_size_that_leaves_no_trace_is_checked(kind):
    extractor = fxfeat.create_feature_extractor(kind(), ["output"], example_inputs=torch.rand(2, 4))
    extractor(torch.rand(2, 4))
    with pytest.raises(fxfeat.GuardError, match="shape"):
        extractor(torch.rand(5, 4))
