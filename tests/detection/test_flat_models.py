"""Models of one resolution: the simple feature pyramid on the last map, after the final norm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxfeat
from fxfeat import detection
from fxfeat.detection.simple_pyramid import ChannelNorm, SimpleFeaturePyramid
from tests.detection.models import Flat


def image(*size):
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))


def last_map(model, x):
    """The patches' tokens after the final norm, as a map."""
    held = []
    handle = model.norm.register_forward_hook(lambda module, args, result: held.append(result))
    model(x)
    handle.remove()
    rows, columns = x.shape[-2] // 16, x.shape[-1] // 16
    return held[0][:, 1:].unflatten(1, (rows, columns)).permute(0, 3, 1, 2)


def test_the_final_norm_is_applied():
    model = Flat(free=True).eval()
    nn.init.normal_(model.norm.weight)
    backbone = fxfeat.fpn_backbone(model, example_inputs=image(96, 96)).eval()
    x = image(64, 128)
    (found,) = backbone.body(x)
    assert torch.equal(found, last_map(model, x))
    assert backbone.body.feature_info.module_name() == ["norm"]
    assert not any(name.startswith(("head", "mask_token")) for name in backbone.body.state_dict())


def test_another_block_has_no_final_norm():
    backbone = fxfeat.fpn_backbone(Flat(), (1,), example_inputs=image(96, 96))
    assert backbone.body.feature_info.module_name() == ["blocks.1"]
    assert not any(name.startswith(("norm", "blocks.2")) for name in backbone.body.state_dict())


def test_levels():
    backbone = fxfeat.fpn_backbone(Flat(free=True), example_inputs=image(96, 96), out_channels=8)
    assert isinstance(backbone.fpn, SimpleFeaturePyramid)
    assert (backbone.strides, backbone.size_divisibility, backbone.fixed_size) == ([4, 8, 16, 32, 64], 32, None)
    assert list(backbone(image(64, 96))) == ["0", "1", "2", "3", "pool"]
    found = {name: tuple(level.shape[-2:]) for name, level in backbone(image(75, 101)).items()}
    assert found == {"0": (19, 26), "1": (10, 13), "2": (5, 7), "3": (3, 4), "pool": (2, 2)}


@pytest.mark.parametrize(("patch", "width"), [(8, 32), (14, 32), (32, 128)])
def test_strides_are_powers_of_two_whatever_the_patch(patch, width):
    side = 6 * patch
    backbone = fxfeat.fpn_backbone(Flat(patch, side, True, width), example_inputs=image(side, side))
    assert backbone.strides == [4, 8, 16, 32, 64]
    found = [tuple(level.shape[-2:]) for level in backbone(image(64, 128)).values()]
    assert found == [(16, 32), (8, 16), (4, 8), (2, 4), (1, 2)]


def test_a_patch_of_14_sees_16_pixels():
    backbone = fxfeat.fpn_backbone(Flat(14, 84, free=True), example_inputs=image(84, 84)).eval()
    x = image(64, 96)
    smaller = nn.functional.interpolate(x, (56, 84), mode="bilinear", antialias=True)
    wanted = backbone.fpn(backbone.body(smaller)[0])
    assert all(torch.equal(level, wanted[name]) for name, level in backbone(x).items())


def test_layers_are_those_of_the_paper():
    fpn = SimpleFeaturePyramid(64, 32, 16, (4, 8, 16, 32))
    kinds = [[type(layer) for layer in block] for block in fpn.scale_blocks]
    assert kinds == [
        [nn.ConvTranspose2d, ChannelNorm, nn.GELU, nn.ConvTranspose2d],
        [nn.ConvTranspose2d],
        [],
        [nn.MaxPool2d],
    ]
    assert [block[0].in_channels for block in fpn.inner_blocks] == [16, 32, 64, 64]
    assert [type(block[1]) for block in fpn.layer_blocks] == [ChannelNorm] * 4


@pytest.mark.parametrize("build", [detection.retinanet, detection.fcos])
def test_one_stage_detectors_leave_stride_4_out(build):
    detector = build(Flat(), 3, example_inputs=image(96, 96))
    assert detector.backbone.strides == [8, 16, 32, 64, 128]


def test_several_blocks_are_refused():
    with pytest.raises(fxfeat.RequestError) as raised:
        fxfeat.fpn_backbone(Flat(), (1, 3), example_inputs=image(96, 96))
    assert str(raised.value) == (
        "out_indices=(1, 3) asks for 2 blocks of a model that works at one resolution; all levels are made from the "
        "map of one. Pass one block, such as out_indices=(-1,)."
    )


def test_output_stride_is_refused():
    with pytest.raises(fxfeat.RequestError) as raised:
        fxfeat.fpn_backbone(Flat(), output_stride=8, example_inputs=image(96, 96))
    assert str(raised.value) == ("output_stride=8 was asked of a model that works at one resolution; leave it out.")
