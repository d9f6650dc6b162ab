"""``num_features`` and ``head_hidden_size`` are true, whatever was changed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.backbone import models
from tests.backbone.build import build
from tests.backbone.models import IMAGE


class Tailed(models.Conv):
    """Behind the last level a convolution of one pixel widens the map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_head, self.fc = nn.Conv2d(8, 12, 1), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.stage2(self.stage1(self.stem(x))))
        return self.fc(self.drop(self.conv_head(x).mean((2, 3))))


class Hidden(models.Conv):
    """A hidden layer before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 5))


def leave(backbone):
    """Change nothing."""


CHANGES = {
    "nothing": leave,
    "no classifier": lambda backbone: backbone.reset_classifier(0),
    "another pooling": lambda backbone: backbone.reset_classifier(3, "max"),
    "pruned, with head": lambda backbone: backbone.prune_intermediate_layers([-1], prune_head=False),
    "pruned, without head": lambda backbone: backbone.prune_intermediate_layers([-1]),
    "pruned earlier": lambda backbone: backbone.prune_intermediate_layers([0], prune_head=False),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("cls", (models.Conv, Tailed, Hidden, models.Tokens, models.PatchMean))
def test_widths_are_true(cls, change):
    _, backbone = build(cls)
    CHANGES[change](backbone)
    features = backbone.forward_features(IMAGE)
    assert backbone.num_features == features.shape[2 if features.dim() == 3 else 1]
    embedding = backbone.forward_head(features, pre_logits=True)
    assert backbone.head_hidden_size == embedding.shape[2 if embedding.dim() == 3 else 1]


@pytest.mark.parametrize(("cls", "width"), ((models.TwoHeads, 8), (models.TwoBranches, 10), (models.Flattened, 12)))
def test_the_hidden_width_of_other_heads(cls, width):
    _, backbone = build(cls)
    assert backbone.head_hidden_size == width
