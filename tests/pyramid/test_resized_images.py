"""Models that bring images of all sizes to one: their steps are measured on the image that is given."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxfeat
from tests.pyramid.test_strays import Prepared


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
        self.patch, self.blocks = nn.Conv2d(3, 16, 8, 8), nn.TransformerEncoder(layer, 2)

    def forward(self, x):
        x = F.interpolate(x, (64, 64), mode="bilinear")
        return self.blocks(self.patch(x).flatten(2).transpose(1, 2)).mean(1)


def bring(x):
    return F.interpolate(x, size=(64, 64), mode="bilinear")


RESIZES = {"interpolated": bring, "pooled": lambda x: F.adaptive_avg_pool2d(x, 64), "layer": nn.Upsample((64, 64))}


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize(
    ("size", "reduction"),
    [((96, 96), [3, 6]), ((64, 96), [(2, 3), (4, 6)]), ((128, 128), [4, 8]), ((64, 64), [2, 4])],
)
def test_steps_are_of_the_image_that_is_given(resize, size, reduction):
    image = torch.rand(1, 3, *size)
    pyramid = fxfeat.features_only(Prepared(RESIZES[resize]).eval(), example_inputs=image)
    assert pyramid.feature_info.reduction() == reduction
    assert [tuple(level.shape[2:]) for level in pyramid(image)] == [(32, 32), (16, 16)]


def test_images_of_other_sizes_are_refused():
    pyramid = fxfeat.features_only(Prepared(bring).eval(), example_inputs=torch.rand(1, 3, 96, 96))
    with pytest.raises(fxfeat.GuardError) as caught:
        pyramid(torch.rand(1, 3, 128, 96))
    assert str(caught.value) == (
        "The model brings its images to one size, so the steps of its maps are known for images of (96, 96) pixels; "
        "this one has (128, 96). Create the pyramid with example_inputs= like this input."
    )
    assert len(pyramid(torch.rand(5, 3, 96, 96))) == 2


def test_steps_that_are_no_whole_pixels():
    with pytest.raises(fxfeat.TraceError) as caught:
        fxfeat.features_only(Prepared(bring).eval(), example_inputs=torch.rand(1, 3, 75, 75))
    assert str(caught.value) == (
        "Prepared brings its images to one size: relu is 32x32 for an image of 75x75, and one step of it is no whole "
        "number of pixels. Pass example_inputs= with an image of the size that it brings them to."
    )


def test_blocks_of_a_resized_image():
    pyramid = fxfeat.features_only(Tokens().eval(), example_inputs=torch.rand(1, 3, 128, 128))
    assert pyramid.feature_info.reduction() == [16, 16]
    with pytest.raises(fxfeat.GuardError, match=r"^The model brings its images to one size"):
        pyramid(torch.rand(1, 3, 64, 64))


def test_a_share_of_the_image_is_no_one_size():
    pyramid = fxfeat.features_only(
        Prepared(lambda x: F.interpolate(x, scale_factor=0.5)).eval(), example_inputs=torch.rand(1, 3, 96, 96)
    )
    assert pyramid.feature_info.reduction() == [4, 8]
    assert [tuple(level.shape[2:]) for level in pyramid(torch.rand(1, 3, 64, 128))] == [(16, 32), (8, 16)]
