"""Inputs that are images and signals, and those that are none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxfeat
from tests.pyramid.test_strays import Prepared

ENCODER = nn.TransformerEncoderLayer(16, 4, 32, 0.0, batch_first=True)


class Wave(nn.Module):
    """Takes a signal without channels."""

    def __init__(self, prepare):
        super().__init__()
        self.prepare, self.frames, self.blocks = prepare, nn.Conv1d(1, 16, 20, 20), nn.TransformerEncoder(ENCODER, 2)

    def forward(self, x):
        return self.blocks(self.frames(self.prepare(x)).transpose(1, 2)).mean(1)


SIGNALS = {
    "index": lambda x: x[:, None],
    "named index": lambda x: x[:, None, :],
    "method": lambda x: x.unsqueeze(1),
    "function": lambda x: torch.unsqueeze(x, 1),
    "keyword": lambda x: x.unsqueeze(dim=1),
}


@pytest.mark.parametrize("prepare", SIGNALS)
@pytest.mark.parametrize("length", [1600, 1000])
def test_a_signal_without_channels(prepare, length):
    model = Wave(SIGNALS[prepare]).eval()
    pyramid = fxfeat.features_only(model, example_inputs=torch.rand(2, 1600))
    assert pyramid.feature_info.reduction() == [20, 20]
    assert [tuple(level.shape) for level in pyramid(torch.rand(3, length))] == [(3, 16, length // 20)] * 2
    _, maps = fxfeat.Backbone(model, example_inputs=torch.rand(2, 1600)).forward_intermediates(torch.rand(2, length))
    assert [tuple(level.shape) for level in maps] == [(2, 16, length // 20)] * 2


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_an_image_of_bytes(dtype):
    with pytest.raises(fxfeat.TraceError) as caught:
        fxfeat.features_only(
            Prepared(lambda x: x.float() / 255).eval(), example_inputs=(torch.zeros(1, 3, 64, 64, dtype=dtype),)
        )
    assert str(caught.value) == (
        "A feature pyramid needs an image (N, C, H, W), a volume (N, C, D, H, W) or a signal (N, C, L), and Prepared "
        f"takes x of shape (1, 3, 64, 64) and of {dtype}, which is no floating-point number. If it takes images too, "
        "pass example_inputs= with one."
    )
