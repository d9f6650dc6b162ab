"""Devices are tied to the tensor that they were read from, on stand-ins of every kind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxfeat
from fxfeat.trace.setup import read_setup, record_mode
from tests.oracle import same

X = torch.rand(3, 4)


class OnMeta(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        y = self.linear(x)
        rows, device = y.shape[0], y.device
        return torch.arange(rows, device=device)[:, None] + y.to(device=device)


class OnFake(OnMeta):
    """Meta tensors take no part in autocast."""

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.linear(x)
        return super().forward(y.float().to(x.device))


class OnReal(OnMeta):
    def forward(self, x):
        if x.sum() < 0:
            return x
        return super().forward(x)


@pytest.mark.parametrize(("model", "kind"), [(OnMeta(), "meta"), (OnFake(), "fake"), (OnReal(), "real")])
def test_no_device_is_written_down(model, kind):
    model.eval()
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=X)
    assert record_mode(read_setup(model, None, None, X), False).kind == kind
    assert "device('cpu')" not in extractor.code
    assert ".device\n" in extractor.code
    assert same(extractor(X)["output"], model(X))
