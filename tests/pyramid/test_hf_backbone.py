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


def test_what_transformers_asks_of_a_backbone(backbone):
    image = torch.rand(1, 3, 64, 64)
    given = {"output_hidden_states": True, "output_attentions": False, "return_dict": True, "unknown": 1}
    out = backbone.forward_with_filtered_kwargs(image, **given)
    assert out.attentions is None and len(out.hidden_states) == len(backbone.stage_names)
    assert all(map(torch.equal, out[0], out["feature_maps"]))
    assert [out.hidden_states[index] is held for index, held in zip(backbone.out_indices, out[0], strict=True)]
    assert backbone(image).hidden_states is None
    maps = backbone(image, return_dict=False)
    assert len(maps) == 1 and all(map(torch.equal, maps[0], out.feature_maps))
    assert [backbone.out_feature_channels[name] for name in backbone.out_features] == backbone.channels
    assert backbone.config.out_features == backbone.out_features


def test_attention_is_refused(backbone):
    with pytest.raises(fxfeat.RequestError) as caught:
        backbone(torch.rand(1, 3, 64, 64), output_attentions=True)
    assert str(caught.value) == "output_attentions=True was asked for; a pyramid does not look at attention."


def test_other_stages_are_chosen(backbone):
    image = torch.rand(1, 3, 64, 64)
    every = backbone(image).feature_maps
    backbone.out_features = ["stage2", "stage3"]
    assert (backbone.out_indices, backbone.channels) == ([1, 2], backbone.num_features[1:3])
    assert all(map(torch.equal, backbone(image).feature_maps, every[1:]))
    backbone.out_indices = (-1,)
    assert backbone.out_features == ["stage3"]
    for name, wrong, message in (
        ("out_indices", [7], "out_indices is [7]; the pyramid returns levels (0, 1, 2). Choose among these."),
        ("out_features", ["stem"], "There is no stage 'stem'; there are stage1, stage2, stage3."),
    ):
        with pytest.raises(fxfeat.RequestError) as caught:
            setattr(backbone, name, wrong)
        assert str(caught.value) == message


def test_tokens_with_one_prefix_token():
    from tests.backbone.models import IMAGE, Tokens

    model = Tokens().eval()
    pyramid = fxfeat.features_only(model, (0, -1), norm=True, example_inputs=IMAGE)
    tokens = pyramid.as_hf_backbone(reshape_hidden_states=False)(IMAGE).feature_maps
    assert [tuple(held.shape) for held in tokens] == [(2, 17, 8)] * 2
    assert torch.equal(tokens[-1], model.embed(IMAGE))
    assert torch.equal(tokens[0][:, 1:].transpose(1, 2).reshape(2, 8, 4, 4), pyramid(IMAGE)[0])


def test_maps_are_no_tokens(backbone):
    with pytest.raises(fxfeat.RequestError) as caught:
        backbone.pyramid.as_hf_backbone(reshape_hidden_states=False)
    assert str(caught.value) == (
        "reshape_hidden_states=False asks for tokens, and level 0 is a map NCHW. Leave it out."
    )


def test_upernet(backbone):
    config = transformers.UperNetConfig(
        backbone_config=own_backbone(backbone.channels, ["stage1", "stage2", "stage3"]),
        hidden_size=16,
        num_labels=3,
        use_auxiliary_head=False,
    )
    segmenter = transformers.UperNetForSemanticSegmentation(config).eval()
    segmenter.backbone = backbone
    with torch.no_grad():
        assert segmenter(torch.rand(1, 3, 64, 64)).logits.shape == (1, 3, 64, 64)
