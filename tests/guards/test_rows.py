"""Tensors of one dimension: a number for each row of a batch, or a length of their own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxfeat
from tests.oracle import same


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(4, 4), nn.Linear(4, 2)
        self.embed = nn.Embedding(10, 4)


class Labelled(Base):
    def forward(self, x, labels):
        return F.cross_entropy(self.head(self.stem(x)), labels)


class Timed(Base):
    def forward(self, x, times):
        return self.head(self.stem(x) + self.embed(times))


class Selected(Base):
    def forward(self, x, chosen):
        y = self.stem(x)
        return y[torch.arange(x.shape[0]), chosen % 4]


@pytest.mark.parametrize("kind", [Labelled, Timed, Selected])
@pytest.mark.parametrize("rows", [1, 2, 6])
def test_numbers_for_each_row_leave_the_batch_free(kind, rows):
    model = kind().eval()
    extractor = fxfeat.create_feature_extractor(
        model, ["stem", "output"], example_inputs=(torch.randn(3, 4), torch.tensor([0, 1, 1]))
    )
    given = torch.randn(rows, 4), torch.arange(rows) % 2
    assert same(extractor(*given)["output"], model(*given))
    assert str(extractor.freedoms[0]) == "x.shape[0] (batch 3) is free"


class WeighsClasses(Base):
    """There are as many classes as the example has rows."""

    def forward(self, x, weights):
        return self.head(self.stem(x)) * weights


def test_a_vector_that_is_as_long_as_the_batch_by_chance():
    model = WeighsClasses().eval()
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=(torch.randn(2, 4), torch.rand(2)))
    given = torch.randn(5, 4), torch.rand(2)
    assert same(extractor(*given)["output"], model(*given))


class ChoosesByLength(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(1, 4)
        self.heads = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        return self.heads[x.shape[0] % 4](self.stem(x[:, None]))


def test_a_length_that_code_goes_by_without_a_trace_is_checked():
    model = ChoosesByLength().eval()
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=torch.randn(4))
    with pytest.raises(fxfeat.GuardError):
        extractor(torch.randn(5))
