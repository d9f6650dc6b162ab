"""Images of sizes that a model does not take are padded, or resized, inside."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxfeat
from tests.detection.models import IMAGE, Flat, Parallel, Staged, Thirds, Windows


def image(*size, seed=1):
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("model", "example", "divisor"),
    [
        (Staged, (64, 64), 1),
        (Thirds, (54, 54), 1),
        (Parallel, (64, 64), 8),
        (Windows, (56, 56), 28),
        (Windows, (84, 56), 28),
    ],
)
def test_what_a_size_must_be_a_multiple_of(model, example, divisor):
    backbone = fxfeat.fpn_backbone(model(), example_inputs=image(*example), out_channels=8)
    assert (backbone.size_divisibility, backbone.fixed_size) == (divisor, None)


def test_padding_is_zeros_at_the_bottom_and_right_and_the_maps_are_cut():
    backbone = fxfeat.fpn_backbone(Windows(), example_inputs=image(56, 56), out_channels=8).eval()
    odd = image(75, 101)
    whole = backbone(F.pad(odd, (0, 112 - 101, 0, 84 - 75)))
    found = backbone(odd)
    assert backbone.strides == [4, 8, 16]
    for (name, level), stride in zip(found.items(), backbone.strides, strict=True):
        rows, columns = math.ceil(75 / stride), math.ceil(101 / stride)
        assert torch.equal(level, whole[name][..., :rows, :columns])
        assert level.shape[-2:] == (rows, columns)


def test_no_padding_where_any_size_will_do():
    model = Staged().eval()
    backbone = fxfeat.fpn_backbone(model, example_inputs=IMAGE)
    odd = image(75, 101)
    maps = backbone.body(odd)
    wanted = backbone.fpn({str(index): level for index, level in enumerate(maps)})
    assert all(torch.equal(level, wanted[name]) for name, level in backbone(odd).items())


def test_one_size_only():
    backbone = fxfeat.fpn_backbone(Flat(), example_inputs=image(96, 96), out_channels=8)
    assert (backbone.size_divisibility, backbone.fixed_size) == (32, (96, 96))
    for size in ((96, 96), (64, 64), (75, 101), (133, 96), (200, 320)):
        for level, stride in zip(backbone(image(*size)).values(), backbone.strides, strict=True):
            assert level.shape[-2:] == (math.ceil(size[0] / stride), math.ceil(size[1] / stride))


class Fixed(Staged):
    """Stages that take one size only."""

    def forward(self, x):
        torch._assert(x.shape[-2:] == (64, 96), "64x96 only")
        return super().forward(x)


def test_one_size_only_of_a_hierarchical_model():
    backbone = fxfeat.fpn_backbone(Fixed(), example_inputs=image(64, 96), out_channels=8).eval()
    assert (backbone.size_divisibility, backbone.fixed_size) == (1, (64, 96))
    exact = image(64, 96)
    maps = backbone.body(exact)
    wanted = backbone.fpn({str(index): level for index, level in enumerate(maps)})
    assert all(torch.equal(level, wanted[name]) for name, level in backbone(exact).items())
    found = [tuple(level.shape[-2:]) for level in backbone(image(75, 101)).values()]
    assert found == [(19, 26), (10, 13), (5, 7), (3, 4), (2, 2)]


def test_trying_sizes_leaves_the_model_alone():
    from tests.oracle import frozen

    model = Flat()
    with frozen(model), torch.random.fork_rng():  # the new layers draw their weights
        fxfeat.fpn_backbone(model, example_inputs=image(96, 96))


def test_detectors_are_told():
    options = {"min_size": 96, "max_size": 160}
    windows = fxfeat.detection.faster_rcnn(Windows(), 3, example_inputs=image(56, 56), **options)
    assert (windows.transform.size_divisible, windows.transform.fixed_size) == (56, None)  # of 28, and of stride 8
    flat = fxfeat.detection.faster_rcnn(Flat(side=128), 3, example_inputs=image(128, 128), **options)
    assert (flat.transform.size_divisible, flat.transform.fixed_size) == (32, (128, 128))
    wide = fxfeat.detection.faster_rcnn(Fixed(), 3, example_inputs=image(64, 96), **options)
    assert wide.transform.fixed_size == (96, 64)  # torchvision wants the width first
    own = fxfeat.detection.faster_rcnn(Staged(), 3, example_inputs=IMAGE, size_divisible=128, **options)
    assert own.transform.size_divisible == 128


class Reads(Staged):
    """Reads a value, so that it runs on real tensors alone."""

    def forward(self, x):
        if x.abs().sum().item() < 0:
            x = x + 1
        return super().forward(x)


def test_a_model_that_reads_values():
    backbone = fxfeat.fpn_backbone(Reads(), example_inputs=IMAGE, trainable_levels=2)
    assert backbone.size_divisibility == 1
    trained = {name.partition(".")[0] for name, held in backbone.body.named_parameters() if held.requires_grad}
    assert trained == {"stage3", "stage4"}


class Look(nn.Module):
    """A window of 7 places at stride 8: images of less than 56 pixels have room for none."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(8, 8, 2, 2)
        self.look = nn.Conv2d(8, 8, 7)

    def forward(self, x):
        x = self.down(x)
        return x + nn.functional.interpolate(self.look(x), size=x.shape[-2:])


def test_images_that_are_too_small_are_padded():
    model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), Look()).eval()
    backbone = fxfeat.fpn_backbone(model, example_inputs=image(96, 96), out_channels=8).eval()
    assert backbone.body.feature_info.module_name()[-1] == "2"
    assert (backbone.size_divisibility, backbone.least_size) == (1, 56)
    small = image(40, 70)
    whole = backbone(F.pad(small, (0, 0, 0, 16)))
    found = backbone(small)
    assert {name: tuple(level.shape[-2:]) for name, level in found.items()} == {
        "0": (10, 17),
        "1": (5, 8),
        "pool": (3, 4),
    }
    for name, level in found.items():
        assert torch.equal(level, whole[name][..., : level.shape[-2], : level.shape[-1]])


class Bare(nn.Module):
    """Convolutions without padding, as in Inception: maps lie in the middle of the image."""

    def __init__(self):
        super().__init__()
        self.low = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, 2))
        self.high = nn.Sequential(nn.Conv2d(8, 8, 3, 2), nn.Conv2d(8, 8, 3))
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.high(self.low(x)).mean((2, 3)))


def test_maps_of_convolutions_without_padding_are_widened():
    backbone = fxfeat.fpn_backbone(Bare(), example_inputs=image(96, 96), out_channels=8).eval()
    assert (backbone.strides, backbone.fixed_size) == ([4, 8, 16], None)
    x = image(96, 128)
    first, second = backbone.body(x)
    assert (first.shape[-2:], second.shape[-2:]) == ((21, 29), (8, 12))
    wanted = backbone.fpn({"0": F.pad(first, (1, 2, 1, 2)), "1": F.pad(second, (2, 2, 2, 2))})
    assert all(torch.equal(level, wanted[name]) for name, level in backbone(x).items())


class Resizes(Flat):
    """Brings every image to one size itself."""

    def forward(self, x):
        return super().forward(F.interpolate(x, (128, 128)))


def test_a_model_that_resizes_images_itself():
    backbone = fxfeat.fpn_backbone(Resizes(side=128), example_inputs=image(96, 96), out_channels=8).eval()
    assert backbone.fixed_size == (96, 96)
    for level, stride in zip(backbone(image(75, 101)).values(), backbone.strides, strict=True):
        assert level.shape[-2:] == (math.ceil(75 / stride), math.ceil(101 / stride))


class OfSquares(nn.Module):
    """Reads the side of its grid off the root of the number of places."""

    def __init__(self):
        super().__init__()
        self.patches, self.lower = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 16, 3, 2, 1)
        self.blocks, self.head = nn.ModuleList(Residual(16) for _ in range(3)), nn.Linear(16, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2)
        side = int(x.shape[2] ** 0.5)
        x = self.lower(x.unflatten(2, (side, side))).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x):
        return x + self.layer(self.norm(x))


def test_a_model_of_squares_alone_has_its_images_resized():
    backbone = fxfeat.fpn_backbone(OfSquares().eval(), out_channels=8, example_inputs=torch.rand(1, 3, 64, 64))
    assert backbone.fixed_size == (64, 64)
    assert backbone(torch.rand(1, 3, 64, 96))["0"].shape == (1, 8, 16, 24)
