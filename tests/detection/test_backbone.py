"""What a backbone returns, and what it says of itself."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

import fxfeat
from tests.detection.models import IMAGE, Staged


def build(**options):
    return fxfeat.fpn_backbone(Staged(), example_inputs=IMAGE, **{"out_channels": 16, **options})


def shapes(backbone, image=IMAGE):
    return {name: tuple(level.shape) for name, level in backbone(image).items()}


def test_levels_of_strides_4_to_32_by_default():
    backbone = build()
    assert isinstance(backbone, fxfeat.FPNBackbone)
    assert isinstance(backbone.body, fxfeat.FeaturePyramid)
    assert isinstance(backbone.fpn, FeaturePyramidNetwork)
    assert backbone.strides == [4, 8, 16, 32, 64]
    assert (backbone.num_levels, backbone.out_channels) == (5, 16)
    assert (backbone.size_divisibility, backbone.fixed_size) == (1, None)
    assert shapes(backbone) == {
        "0": (2, 16, 16, 16),
        "1": (2, 16, 8, 8),
        "2": (2, 16, 4, 4),
        "3": (2, 16, 2, 2),
        "pool": (2, 16, 1, 1),
    }


@pytest.mark.parametrize(
    ("asked", "strides"), [(2, [16, 32]), ((1, -1), [4, 32]), ((3, 0, 3), [2, 16]), ([2], [8]), (5, [2, 4, 8, 16, 32])]
)
def test_levels_asked_for_come_finest_first(asked, strides):
    backbone = build(out_indices=asked, extra_blocks=None)
    assert backbone.strides == strides
    assert [64 // level.shape[-1] for level in backbone(IMAGE).values()] == strides


class Two(ExtraFPNBlock):
    """Two more levels: one of a quarter of the resolution, one of a place."""

    def forward(self, results, x, names):
        last = results[-1]
        more = [nn.functional.max_pool2d(last, 4, ceil_mode=True), last[..., ::32, ::32]]
        return results + more, [*names, "quarter", "far"]


@pytest.mark.parametrize(
    ("extra", "names", "strides"),
    [
        (None, ["0", "1"], [16, 32]),
        ("pool", ["0", "1", "pool"], [16, 32, 64]),
        ("p6p7", ["0", "1", "p6", "p7"], [16, 32, 64, 128]),
        (Two(), ["0", "1", "quarter", "far"], [16, 32, 128, 1024]),
    ],
)
def test_extra_levels(extra, names, strides):
    backbone = build(out_indices=2, extra_blocks=extra)
    assert list(backbone(IMAGE)) == names
    assert (backbone.strides, backbone.num_levels) == (strides, len(names))
    assert len(backbone.anchor_generator().sizes) == len(names)
    assert backbone.box_roi_pool().featmap_names == ["0", "1"]


def test_values_are_those_of_the_network_on_the_maps():
    model = Staged().eval()
    backbone = fxfeat.fpn_backbone(model, example_inputs=IMAGE)
    maps = fxfeat.features_only(model, (1, 2, 3, 4), example_inputs=IMAGE)(IMAGE)
    wanted = backbone.fpn({str(index): level for index, level in enumerate(maps)})
    assert all(torch.equal(level, wanted[name]) for name, level in backbone(IMAGE).items())


def test_norm_layer():
    backbone = build(norm_layer=lambda width: nn.GroupNorm(4, width))
    assert sum(isinstance(held, nn.GroupNorm) for held in backbone.fpn.modules()) == 8
    assert len(backbone(IMAGE)) == 5


def test_the_mode_is_the_models():
    for training in (True, False):
        backbone = fxfeat.fpn_backbone(Staged().train(training), example_inputs=IMAGE)
        assert {held.training for held in backbone.modules()} == {training}


def test_copies_and_files():
    backbone = build(freeze_norm=True, trainable_levels=2).eval()
    file = io.BytesIO()
    torch.save(backbone, file)
    file.seek(0)
    for held in (copy.deepcopy(backbone), torch.load(file, weights_only=False)):
        assert all(torch.equal(level, backbone(IMAGE)[name]) for name, level in held(IMAGE).items())
        assert held.strides == backbone.strides
        assert [p.requires_grad for p in held.parameters()] == [p.requires_grad for p in backbone.parameters()]


def test_what_is_printed():
    assert repr(build()).splitlines()[1] == "  out_channels=16, strides=[4, 8, 16, 32, 64]"


def test_random_weights_are_drawn_as_if_nothing_had_been_recorded():
    torch.manual_seed(0)
    found = fxfeat.fpn_backbone(Staged()).fpn.state_dict()
    torch.manual_seed(0)
    Staged()
    expected = FeaturePyramidNetwork([12, 16, 20, 24], 256).state_dict()
    assert all(torch.equal(held, expected[name]) for name, held in found.items())


def test_output_stride():
    model = Staged().eval()
    backbone = fxfeat.fpn_backbone(model, output_stride=8, example_inputs=IMAGE, trainable_levels=1).eval()
    assert backbone.strides == [4, 8, 8, 8, 16]
    maps = fxfeat.features_only(model, (1, 2, 3, 4), output_stride=8, example_inputs=IMAGE)(IMAGE)
    wanted = backbone.fpn({str(index): level for index, level in enumerate(maps)})
    assert all(torch.equal(level, wanted[name]) for name, level in backbone(IMAGE).items())
    trained = {name.partition(".")[0] for name, held in backbone.body.named_parameters() if held.requires_grad}
    assert trained == {"stage4"}
    assert backbone.box_roi_pool().scales == [1 / 4, 1 / 8, 1 / 8, 1 / 8]
