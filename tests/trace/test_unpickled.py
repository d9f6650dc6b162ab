"""Tensors that code reads out of bytes while it runs."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import assert_taps_equal_eager, same

X, OTHER = torch.rand(3, 4), torch.rand(3, 4)
PICKLED = pickle.dumps(torch.arange(4.0))
SAVED = io.BytesIO()
torch.save(torch.arange(4.0), SAVED)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)


class Unpickles(Base):
    def forward(self, x):
        return self.linear(x * pickle.loads(PICKLED))


class UnpicklesAndSums(Base):
    def forward(self, x):
        return self.linear(x + pickle.loads(PICKLED).sum())


class UnpicklesAndWrites(Base):
    def forward(self, x):
        table = pickle.loads(PICKLED)
        table += 1
        return self.linear(x * table)


class Loads(Base):
    def forward(self, x):
        return self.linear(x * torch.load(io.BytesIO(SAVED.getvalue())))


class PicklesWhatItIsGiven(Base):
    def forward(self, x):
        return self.linear(pickle.loads(pickle.dumps(x.detach())))


@pytest.mark.parametrize("kind", [Unpickles, UnpicklesAndSums, UnpicklesAndWrites])
def test_what_is_unpickled_is_new_at_each_call(kind):
    model = kind().eval()
    extractor = fxfeat.create_feature_extractor(model, ["linear"], example_inputs=X)
    for given in (X, OTHER, X):
        assert same(extractor(given)["linear"], model(given))


class SavesWhatItIsGiven(Base):
    def forward(self, x):
        torch.save(x, file := io.BytesIO())
        file.seek(0)
        return self.linear(torch.load(file, weights_only=False))


class CopiesWhatItIsGiven(Base):
    def forward(self, x):
        return self.linear(copy.copy(x))


@pytest.mark.parametrize("kind", [Loads, PicklesWhatItIsGiven, SavesWhatItIsGiven, CopiesWhatItIsGiven])
def test_what_cannot_be_followed_is_refused(kind):
    with pytest.raises(fxfeat.TraceError, match=f"^In '?{kind.__name__}'?, "):
        fxfeat.create_feature_extractor(kind().eval(), ["linear"], example_inputs=X, engine="code")
    assert_taps_equal_eager(kind().eval(), ["linear"], X)
