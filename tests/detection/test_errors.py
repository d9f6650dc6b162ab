"""Wrong uses say what was asked, what is true and what to type."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxfeat
from fxfeat import detection
from tests.detection.models import IMAGE, Staged


def refuse(error, message, model, **options):
    with pytest.raises(error) as raised:
        fxfeat.fpn_backbone(model, **options)
    assert str(raised.value) == message


def test_a_level_that_there_is_not():
    for build in (fxfeat.fpn_backbone, lambda model, **options: detection.mask_rcnn(model, 3, **options)):
        with pytest.raises(fxfeat.RequestError) as raised:
            build(Staged(), out_indices=(1, 5), example_inputs=IMAGE)
        assert str(raised.value).startswith("out_indices=(1, 5) asks for level 5. The model has 5 levels: 0 (stem, ")


def test_a_model_without_a_pyramid():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(fxfeat.TraceError, match=r"^Sequential has no levels\. Looked for: maps that"):
        fxfeat.fpn_backbone(model, example_inputs=torch.rand(2, 3, 2, 2))


def test_features_of_three_dimensions():
    model = nn.Sequential(nn.Conv3d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv3d(4, 8, 3, 2, 1))
    refuse(
        fxfeat.RequestError,
        "A detector needs maps of two dimensions, (N, C, H, W). Those of Sequential have 3: 2 is 8 channels on a grid "
        "of 4x4x4. Pass a model of images; fxfeat.features_only gives the maps of this one.",
        model,
        example_inputs=torch.rand(2, 3, 16, 16, 16),
    )


def test_features_of_one_dimension():
    model = nn.Sequential(nn.Conv1d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv1d(4, 8, 3, 2, 1))
    refuse(
        fxfeat.RequestError,
        "A detector needs maps of two dimensions, (N, C, H, W). Those of Sequential have 1: 2 is 8 channels on a grid "
        "of 16. Pass a model of images; fxfeat.features_only gives the maps of this one.",
        model,
        example_inputs=torch.rand(2, 3, 64),
    )


class Pair(Staged):
    def forward(self, x, other):
        return super().forward(x + other)


def test_a_model_of_two_inputs():
    refuse(
        fxfeat.RequestError,
        "A detector gives its backbone a tensor of images and nothing else, but Pair.forward takes (x, other). Wrap "
        "the model in a module whose forward takes the images alone.",
        Pair(),
        example_inputs=(IMAGE, IMAGE),
    )


def test_extra_blocks_that_there_are_not():
    refuse(
        fxfeat.RequestError,
        "extra_blocks is 'p8'; it must be 'pool', 'p6p7', None or a torchvision.ops.feature_pyramid_network."
        "ExtraFPNBlock.",
        Staged(),
        extra_blocks="p8",
        example_inputs=IMAGE,
    )


@pytest.mark.parametrize("wrong", [0, 2.5, True])
def test_a_wrong_width(wrong):
    refuse(
        fxfeat.RequestError,
        f"out_channels is {wrong!r}; it must be a positive int, such as 256.",
        Staged(),
        out_channels=wrong,
        example_inputs=IMAGE,
    )


def test_no_module():
    refuse(fxfeat.RequestError, "model is a str; it must be a torch.nn.Module.", "resnet50", freeze_norm=True)
