"""The same maps as timm's and torchvision's own dilated models, bit for bit, with the same weights."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from fxfeat.stride import limit_stride

IMAGE = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
EXAMPLE = torch.rand(2, 3, 128, 128)


def maps(model: nn.Module) -> list[torch.Tensor]:
    with torch.no_grad():
        result = model.eval()(IMAGE)
    return list(result) if isinstance(result, (list, tuple)) else [result]


def compare(name: str, output_stride: int, features_only: bool = False) -> tuple[list[bool], float]:
    torch.manual_seed(0)
    plain = timm.create_model(name, features_only=features_only).eval()
    expected = timm.create_model(name, features_only=features_only, output_stride=output_stride)
    expected.load_state_dict(plain.state_dict())
    if not features_only:
        plain.reset_classifier(0, "")
        expected.reset_classifier(0, "")
    changed = limit_stride(plain, output_stride, example_inputs=EXAMPLE)
    assert list(changed.state_dict()) == list(plain.state_dict())
    pairs = list(zip(maps(changed), maps(expected), strict=True))
    return [torch.equal(a, b) for a, b in pairs], max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet", "test_nfnet", "resnet10t"])
def test_small_models(name, output_stride):
    assert compare(name, output_stride)[0] == [True]


@pytest.mark.parametrize("output_stride", [16, 8])
def test_levels_of_features_only(output_stride):
    assert compare("mobilenetv3_small_050", output_stride, True)[0] == [True] * 5


@pytest.mark.parametrize(
    ("replaced", "output_stride"), [((False, False, True), 16), ((False, True, True), 8), ((True, True, True), 4)]
)
def test_torchvision(replaced, output_stride):
    plain = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 2, 1, 2]).eval()
    expected = torchvision.models.ResNet(
        torchvision.models.resnet.Bottleneck, [1, 2, 1, 2], replace_stride_with_dilation=list(replaced)
    )
    expected.load_state_dict(plain.state_dict())
    changed = limit_stride(plain, output_stride, example_inputs=EXAMPLE)
    assert torch.equal(maps(changed)[0], maps(expected)[0])
    layers = zip(changed.named_modules(), expected.named_modules(), strict=True)
    convolutions = [(a, b) for (_, a), (_, b) in layers if isinstance(a, nn.Conv2d) and a.kernel_size != (1, 1)]
    assert all((a.stride, a.dilation, a.padding) == (b.stride, b.dilation, b.padding) for a, b in convolutions)


FAMILIES = (
    *("resnet18", "resnet26d", "resnetblur50", "resnetaa50", "ecaresnet26t", "resnest14d", "resnest50d_4s2x40d"),
    *("res2net50_26w_4s", "regnety_002", "regnetz_b16", "efficientnet_b0", "tf_efficientnet_b0", "mixnet_s"),
    *("repvgg_a0", "convnext_atto", "convnext_atto_ols", "cspresnet50", "cspdarknet53", "nf_regnet_b0", "dm_nfnet_f0"),
    *("rexnet_100", "xception41", "skresnet18", "inception_next_atto", "resnetv2_50x1_bit"),
)


@pytest.mark.zoo
@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize("name", FAMILIES)
def test_families(name, output_stride):
    assert compare(name, output_stride)[0] == [True]


@pytest.mark.zoo
@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize("name", ["mobilenetv3_large_100", "tf_mobilenetv3_small_minimal_100", "lcnet_050"])
def test_levels_of_families(name, output_stride):
    assert compare(name, output_stride, True)[0] == [True] * 5


@pytest.mark.zoo
def test_a_dilated_kernel_of_one_position_is_computed_in_another_order():
    """timm dilates the 1x1 shortcuts of byobnet; torch's CPU kernels then add up in another order."""
    assert compare("gernet_s", 8)[1] < 1e-5
