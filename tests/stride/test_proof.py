"""The proof: dense maps, subsampled, are the strided ones, and what breaks that is named."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from fxfeat.stride import prove
from tests.stride.models import (
    Blur,
    Chain,
    Functional,
    Gated,
    Holder,
    SameConv2d,
    Shortcut,
    Sliced,
    Smoothed,
    Standardised,
    conv,
)

IMAGE = torch.rand(2, 3, 32, 32)


def proof_of(model: nn.Module, output_stride: int, image: torch.Tensor = IMAGE):
    torch.manual_seed(0)
    return prove(model, output_stride, example_inputs=image)


EXACT = {
    "chain": Chain,
    "functions": Functional,
    "slices": Sliced,
    "settings": lambda: Holder(Standardised(4, 4, 3, 2, 1), Standardised(4, 4, 5, 2, 2)),
    "averages": lambda: Holder(nn.AvgPool2d(2), nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    "maxima": lambda: Holder(nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2)),
    "blurs": lambda: Holder(Blur(4), conv(4, 4), Blur(4)),
    "dilated": lambda: Holder(conv(4, 4, stride=2), nn.Conv2d(4, 4, 3, 2, 2, dilation=2), conv(4, 4)),
    "padded before": lambda: Holder(nn.ZeroPad2d(1), nn.Conv2d(4, 4, 3, 2), nn.ZeroPad2d(1), nn.Conv2d(4, 4, 3, 2)),
    "even": lambda: Holder(nn.Conv2d(4, 4, 2, 2), nn.Conv2d(4, 4, 4, 2, 1)),
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("output_stride", [2, 4])
def test_exact_up_to_the_borders(name, output_stride):
    proof = proof_of(EXACT[name](), output_stride)
    assert proof.ok and proof.breaks == () and proof.max_abs_diff < 1e-12
    assert proof.offset in ((), (0, 0))


def test_it_counts_what_it_compares():
    proof = proof_of(Chain(), 2)
    assert (proof.output_stride, proof.compared, proof.dense) == (2, 6, 5)


def test_squeeze_and_excite_is_named_and_the_rest_goes_on_behind_it():
    proof = proof_of(Holder(Gated(), Gated()), 2)
    assert not proof.ok
    assert [(held.name, held.inside) for held in proof.breaks] == [("blocks.0.mean", True), ("blocks.1.mean", True)]
    assert {held.reason for held in proof.breaks} == {"it pools over all positions, of which there are more"}


def test_the_pool_of_the_head_is_named_and_does_no_harm():
    proof = proof_of(nn.Sequential(Chain(), nn.AdaptiveAvgPool2d(1)), 2)
    assert proof.ok
    assert [(held.name, held.inside) for held in proof.breaks] == [("1", False)]


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4)])
def test_norms_over_positions_are_named(norm):
    proof = proof_of(Holder(conv(4, 4, stride=2), norm), 2)
    assert [(held.name, held.reason) for held in proof.breaks] == [
        ("blocks.1", "it normalises over all positions, of which there are more")
    ]


class Attends(nn.Module):
    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        return F.scaled_dot_product_attention(tokens, tokens, tokens).transpose(1, 2).reshape(x.shape)


def test_attention_is_named():
    proof = proof_of(Holder(conv(4, 4, stride=2), Attends()), 2)
    assert [held.name for held in proof.breaks] == ["blocks.1.scaled_dot_product_attention"]


def test_averages_that_follow_timm_are_named():
    proof = proof_of(Holder(Shortcut(), Shortcut()), 2)
    assert [(held.name, held.reason) for held in proof.breaks] == [
        ("blocks.1.pool", "an average on a side branch is not dilated, as in timm")
    ]
    proof = proof_of(Holder(Smoothed()), 2)
    assert [(held.name, held.reason) for held in proof.breaks] == [
        ("blocks.0.smooth", "an average behind a convolution on a side branch goes with its stride, as in timm")
    ]


def test_repeated_padding_is_named():
    proof = proof_of(Holder(conv(4, 4, stride=2), nn.ReflectionPad2d(1), nn.Conv2d(4, 4, 3)), 2)
    assert [(held.name, held.reason) for held in proof.breaks] == [
        ("blocks.1", "padding that repeats values takes them from between the strided ones")
    ]


def test_unequal_padding_moves_the_original_within_the_dense_map():
    assert proof_of(Holder(SameConv2d(4, 4, 3, 2)), 2).offset == (1, 1)
    proof = proof_of(Holder(SameConv2d(4, 4, 3, 2), SameConv2d(4, 4, 3, 2)), 2)
    assert proof.ok and proof.offset == (3, 3)


def test_a_wrong_dense_model_is_found(monkeypatch):
    from fxfeat.stride import image_flow as flow
    from fxfeat.stride import windows

    def without_dilation(window, kept, rate, **options):
        return windows.densify(window, kept, (1,) * len(rate), **options)

    monkeypatch.setattr(flow, "densify", without_dilation)
    assert [held.name for held in proof_of(Chain(), 2).breaks] == ["c", "d", "e"]


def test_the_model_is_left_alone():
    model = nn.Sequential(conv(3, 4, stride=2), nn.BatchNorm2d(4), conv(4, 4, stride=2)).train()
    before = copy.deepcopy(model.state_dict())
    proof_of(model, 2)
    assert model.training and model[0].weight.dtype is torch.float32
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_it_prints_as_a_table():
    assert str(proof_of(Chain(), 2)) == (
        "output stride 2: 6 values compared, 5 of them denser\nevery denser map, subsampled, is the original's"
    )
    shown = str(proof_of(nn.Sequential(Chain(), nn.AdaptiveAvgPool2d(1)), 2)).splitlines()
    assert shown[0].split() == ["operation", "max", "|diff|", "matters", "to", "why", "it", "differs"]
    assert shown[2].startswith("1 ")
    assert "the head" in shown[2] and shown[2].endswith("it pools over all positions, of which there are more")


def prove_family(model: nn.Module, size: int, breaking: tuple[str, ...] = ()):
    """Check both strides; besides the head's pool, only the named kinds of operations may break."""
    for output_stride in (16, 8):
        proof = proof_of(model, output_stride, torch.rand(1, 3, size, size))
        inside = [held.name for held in proof.breaks if held.inside]
        assert all(name.endswith(breaking) for name in inside), inside if breaking else (breaking or inside)
        assert breaking or proof.ok
        assert proof.dense > 0 and proof.offset in ((), (0, 0))


def test_dla():
    prove_family(timm.create_model("dla46_c"), 64)


def test_densenet():
    model = torchvision.models.DenseNet(growth_rate=8, block_config=(2, 2, 2, 2), num_init_features=8)
    prove_family(model, 64)


def test_efficientnet():
    model = torchvision.models.efficientnet_b0(weights=None)
    del model.features[8]
    prove_family(model.features, 64, ("avgpool",))


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["vgg11", "vgg11_bn", "dla34", "densenet121", "ghostnet_050", "ghostnetv2_100"])
def test_families_of_timm(name):
    size = 224 if name.startswith("vgg") else 64
    prove_family(timm.create_model(name), size, ("mean", "pool") if name.startswith("ghostnet") else ())


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_v2_s", "mobilenet_v3_small"])
def test_families_of_torchvision(name):
    prove_family(torchvision.models.get_model(name, weights=None), 64, ("avgpool",))
