"""A pyramid as the backbone of transformers' models."""

from __future__ import annotations

import itertools

import pytest
import torch
import transformers
from torch import nn

import fxfeat
from tests.pyramid.test_levels import Residual, conv


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return fxfeat.features_only(Residual().eval(), example_inputs=torch.rand(1, 3, 64, 64)).as_hf_backbone()


def own_backbone(widths, names):
    return transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=widths, depths=[1] * len(widths), layer_type="basic", out_features=names
    )


def test_detr(backbone):
    config = transformers.DetrConfig(
        backbone_config=own_backbone([4, backbone.channels[-1]], ["stage2"]),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=5,
    )
    model = transformers.DetrModel(config).eval()
    image = torch.rand(1, 3, 64, 64)
    seen = []
    model.input_projection.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.backbone.model = backbone
    with torch.no_grad():
        assert model(image).last_hidden_state.shape == (1, 5, 16)
        assert torch.equal(seen[0], backbone.pyramid(image)[-1])


def test_mask2former():
    torch.manual_seed(0)
    widths, names = [4, 8, 8, 16], ["stage1", "stage2", "stage3", "stage4"]
    layers = [conv(before, after, 3, 2) for before, after in itertools.pairwise([3, *widths])]
    stem = nn.AvgPool2d(2)
    model = nn.Sequential(stem, *layers, nn.AdaptiveAvgPool2d(1)).eval()
    backbone = fxfeat.features_only(model, 4, example_inputs=torch.rand(1, 3, 64, 64)).as_hf_backbone()
    assert backbone.channels == widths
    config = transformers.Mask2FormerConfig(
        backbone_config=own_backbone(widths, names),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=16,
        num_queries=5,
    )
    segmenter = transformers.Mask2FormerModel(config).eval()
    segmenter.pixel_level_module.encoder = backbone
    with torch.no_grad():
        assert segmenter(torch.rand(1, 3, 64, 64)).transformer_decoder_last_hidden_state.shape == (1, 5, 32)
