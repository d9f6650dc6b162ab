"""Anchors and pooled regions lie where the levels are."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align

import fxfeat
from fxfeat import detection
from fxfeat.detection.pooling import StrideMapper, make_roi_pool
from tests.detection.models import IMAGE, Staged, Thirds

THIRDS = torch.rand(2, 3, 54, 54, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def backbone():
    return fxfeat.fpn_backbone(Staged(), example_inputs=IMAGE, out_channels=8)


def test_sizes_of_ones_own(backbone):
    anchors = backbone.anchor_generator(sizes=(8, 16, 32, 64, (128,)), aspect_ratios=(1.0,))
    assert anchors.sizes == ((8,), (16,), (32,), (64,), (128,))
    anchors = backbone.anchor_generator(((8, 12),) * 5, ((1.0, 2.0),) * 5)
    assert anchors.num_anchors_per_location() == [4] * 5


def test_sizes_of_the_wrong_length(backbone):
    with pytest.raises(fxfeat.RequestError) as raised:
        backbone.anchor_generator(sizes=(32, 64, 128))
    assert str(raised.value) == (
        "sizes has 3 entries, but the backbone has 5 levels, of strides (4, 8, 16, 32, 64), extra ones included. Pass "
        "one size or tuple of sizes for each level, for instance sizes=((32,), (64,), (128,), (256,), (512,))."
    )


def test_ratios_of_the_wrong_length(backbone):
    with pytest.raises(fxfeat.RequestError) as raised:
        backbone.anchor_generator(aspect_ratios=((0.5, 1.0), (1.0, 2.0)))
    assert str(raised.value) == (
        "aspect_ratios has 2 tuples, but the backbone has 5 levels, of strides (4, 8, 16, 32, 64), extra ones "
        "included. Pass one tuple for each level, or one for all of them, for instance aspect_ratios=(0.5, 1.0, 2.0)."
    )


def test_other_numbers_of_anchors_at_each_level(backbone):
    with pytest.raises(fxfeat.RequestError) as raised:
        backbone.anchor_generator(sizes=((8, 16), 32, 64, 128, 256))
    assert str(raised.value) == (
        "The levels have [6, 3, 3, 3, 3] anchors at each place; it must be the same number for all, since one head "
        "serves them all. Pass as many sizes and aspect ratios for each level."
    )


@pytest.mark.parametrize("build", [detection.faster_rcnn, detection.retinanet])
def test_an_anchor_generator_of_the_wrong_length(build):
    name = "rpn_anchor_generator" if build is detection.faster_rcnn else "anchor_generator"
    wrong = AnchorGenerator(((32,), (64,)), ((1.0,), (1.0,)))
    with pytest.raises(fxfeat.RequestError, match=r"^The anchor generator is for 2 levels, but the backbone has 5, of"):
        build(Staged(), 3, example_inputs=IMAGE, **{name: wrong})


def test_anchors_lie_on_the_grid_of_strides_that_are_no_powers_of_two():
    detector = detection.faster_rcnn(Thirds(), 3, example_inputs=THIRDS, min_size=100, max_size=150)
    assert detector.backbone.strides == [9, 27, 54]
    assert detector.transform.size_divisible == 27
    images = torch.zeros(1, 3, 108, 135)
    maps = list(detector.backbone(images).values())
    (found,) = detector.rpn.anchor_generator(ImageList(images, [(100, 130)]), maps)
    centres = (found[:, :2] + found[:, 2:]) / 2
    first, second = 12 * 15 * 3, 4 * 5 * 3
    assert centres[:first, 0].unique().tolist() == [9.0 * index for index in range(15)]
    assert centres[first : first + second, 1].unique().tolist() == [27.0 * index for index in range(4)]


@pytest.mark.parametrize("strides", [[4, 8, 16, 32], [9, 27], [4, 32], [4, 8, 16, 16], [8]])
def test_regions_are_pooled_from_where_they_are(strides):
    names = [str(index) for index in range(len(strides))]
    maps = {name: torch.rand(1, 2, 864 // stride, 864 // stride) for name, stride in zip(names, strides, strict=True)}
    boxes = torch.tensor([[20.0, 30, 80, 90], [10, 20, 240, 250], [0, 0, 500, 480], [5, 7, 860, 850]])
    pool = make_roi_pool(names, strides, 7)
    found = pool(maps, [boxes], [(300, 300)])  # sizes of images are not used: they may be padded to any extent
    sides = ((boxes[:, 2:] - boxes[:, :2]).prod(1)).sqrt()
    for box, side, region in zip(boxes, sides.tolist(), found, strict=True):
        fine = [stride for stride in strides if stride <= side * 16 / 224] or strides[:1]
        index = strides.index(max(fine))
        wanted = roi_align(maps[str(index)], [box[None]], 7, 1 / strides[index], sampling_ratio=2)
        assert torch.equal(region, wanted[0])


def test_sizes_of_what_is_pooled(backbone):
    assert backbone.box_roi_pool().output_size == (7, 7)
    assert backbone.mask_roi_pool().output_size == (14, 14)
    assert backbone.keypoint_roi_pool(28).output_size == (28, 28)
    assert backbone.box_roi_pool().featmap_names == ["0", "1", "2", "3"]


def test_levels_of_equal_stride():
    boxes = [torch.tensor([[0.0, 0, 10, 10], [0, 0, 900, 900]])]
    assert StrideMapper((8, 8, 16, 16))(boxes).tolist() == [0, 2]
