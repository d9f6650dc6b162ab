"""The split of networks for signals, of those that return several maps, and of those that score by a convolution."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxfeat


class Signals(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(12, 8, 3, 2, 1), nn.ReLU(), nn.Conv1d(8, 16, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.body(x).mean(-1))


def test_the_channels_of_a_signal_come_before_its_places():
    model, x = Signals().eval(), torch.rand(2, 12, 200)
    backbone = fxfeat.Backbone(model, example_inputs=x)
    assert backbone.num_features == 16
    assert torch.equal(backbone.forward_features(x), model.body(x))
    backbone.reset_classifier(5, "max")
    assert torch.equal(backbone(x), backbone.get_classifier()(model.body(x).amax(-1)))


class ScoresByConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 5, 1)

    def forward(self, x):
        return self.head(F.adaptive_avg_pool2d(self.body(x), 1)).flatten(1)


def test_an_embedding_of_one_place_is_as_wide_as_its_channels():
    backbone = fxfeat.Backbone(ScoresByConvolution().eval(), example_inputs=torch.rand(2, 3, 32, 32))
    assert backbone.head_hidden_size == 16


class Returns(nn.Module):
    """Returns the map of each stage, normed, in a list or a dict."""

    def __init__(self, kind):
        super().__init__()
        widths = [3, 8, 12, 16]
        self.stages = nn.ModuleList(nn.Conv2d(i, o, 3, 2, 1) for i, o in itertools.pairwise(widths))
        self.norms, self.kind = nn.ModuleList(nn.GroupNorm(1, o) for o in widths[1:]), kind

    def forward(self, x):
        maps = []
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = F.relu(stage(x))
            maps.append(norm(x))
        return maps if self.kind is list else {f"stage{index}": each for index, each in enumerate(maps)}


@pytest.mark.parametrize("kind", [list, dict])
def test_the_features_of_a_pyramid_are_its_coarsest_map(kind):
    model, x = Returns(kind).eval(), torch.rand(2, 3, 64, 64)
    backbone = fxfeat.Backbone(model, example_inputs=x)
    coarsest = list(model(x).values())[-1] if kind is dict else model(x)[-1]
    assert torch.equal(backbone.forward_features(x), coarsest)
    assert backbone.num_features == 16
