"""Layouts read from shapes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxfeat
from fxfeat.pyramid.read_layout import Extent, read_layout
from fxfeat.vision.layout import Layout

TWO = Extent(2, (64, 64), (192, 128))
ONE = Extent(2, (64, 64))
MAP = Layout("NCHW", (16, 16), 8, (4.0, 4.0))


def test_channels_last_and_first():
    first = read_layout((2, 8, 16, 16), (2, 8, 48, 32), TWO)
    last = read_layout((2, 16, 16, 8), (2, 48, 32, 8), TWO)
    assert first is not None and first.order == "NCHW" and first.scale == (4.0, 4.0)
    assert last is not None and last.order == "NHWC" and last.channels == 8


def test_as_many_channels_as_places_are_told_by_growth():
    held = read_layout((2, 16, 16, 16), (2, 48, 32, 16), TWO)
    assert held is not None and held.order == "NHWC"


def test_windows_are_no_map():
    assert read_layout((8, 7, 7, 8), (48, 7, 7, 8), TWO) is None


def test_an_attention_matrix_is_no_map_at_one_size():
    assert read_layout((2, 4, 49, 64), None, ONE, [MAP]) is None


def test_a_pooled_map_is_none():
    assert read_layout((2, 8, 1, 1), (2, 8, 1, 1), TWO) is None
    assert read_layout((2, 8, 1, 1), None, ONE, [MAP], slid=True) is None


def test_places_in_one_axis_after_the_channels_are_no_tokens():
    assert read_layout((2, 8, 256), None, ONE, [MAP]) is None


class Windows(nn.Module):
    """Works on windows in NHWC and merges 2x2 neighbours into channels."""

    def __init__(self):
        super().__init__()
        self.patch, self.inner, self.merge = nn.Conv2d(3, 4, 4, 4), nn.Linear(4, 4), nn.Linear(16, 8)
        self.outer, self.fc = nn.Linear(8, 8), nn.Linear(8, 2)

    def windows(self, x, layer):
        n, h, w, c = x.shape
        x = x.view(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        x = layer(x).relu().view(n, h // 2, w // 2, 2, 2, c)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)

    def forward(self, x):
        x = self.patch(x).permute(0, 2, 3, 1)
        x = x + self.windows(x, self.inner)
        x = torch.cat([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1)
        x = self.merge(x)
        x = x + self.windows(x, self.outer)
        return self.fc(x.mean((1, 2)))


def test_windows_and_merging_in_channels_last():
    image = torch.rand(2, 3, 32, 64)
    pyramid = fxfeat.features_only(Windows().eval(), example_inputs=image)
    assert (pyramid.feature_info.reduction(), pyramid.channels) == ([4, 8], [4, 8])
    assert [tuple(held.shape) for held in pyramid(image)] == [(2, 4, 8, 16), (2, 8, 4, 8)]
    assert [held.is_contiguous() for held in pyramid(image)] == [True, True]


class Sorted(nn.Module):
    """Sorts its tokens by window once, and works on them so."""

    def __init__(self, turn):
        super().__init__()
        self.patch, self.turn, self.layers = nn.Conv2d(3, 8, 4, 4), turn, nn.ModuleList(nn.Linear(8, 8) for _ in "12")
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        x = self.patch(x).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        x = x.view(n, h // 2, 2, w // 2, 2, c)
        x = (x.permute(0, 1, 3, 2, 4, 5) if self.turn else x).reshape(n, h * w, c)
        for layer in self.layers:
            x = x + layer(x).relu()
        return self.fc(x.mean(1))


def test_tokens_sorted_by_window_make_a_map_of_their_size_of_image():
    image = torch.rand(2, 3, 32, 64)
    plain = fxfeat.features_only(Sorted(turn=False), 1, example_inputs=image)
    assert plain(image)[0].shape == (2, 8, 8, 16)
    model = Sorted(turn=True).eval()
    turned = fxfeat.features_only(model, 1, example_inputs=image)
    with torch.no_grad():
        tokens = fxfeat.create_feature_extractor(model, ["add_1"], example_inputs=image)(image)["add_1"]
        rows = tokens.view(2, 4, 8, 2, 2, 8).permute(0, 5, 1, 3, 2, 4).reshape(2, 8, 8, 16)
        assert torch.equal(turned(image)[0], rows)
        nlc = fxfeat.features_only(model, 1, output_fmt="NLC", example_inputs=image)(image)[0]
    assert torch.equal(nlc, rows.flatten(2).transpose(1, 2))
    with pytest.raises(fxfeat.GuardError) as caught:
        turned(torch.rand(2, 3, 64, 32))
    assert str(caught.value) == (
        "The model keeps its tokens in an order of its own, which is known for images of (32, 64) pixels; this one has "
        "(64, 32). Create the pyramid with example_inputs= like this input."
    )
