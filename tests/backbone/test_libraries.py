"""Small models of timm, torchvision and transformers beside their libraries' own methods."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
import transformers
from torch import nn

from fxfeat import Backbone

TINY = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def image(side: int) -> torch.Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def same(left: object, right: object) -> bool:
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    return len(left) == len(right) and all(map(same, left, right))


@pytest.mark.parametrize(("name", "side"), (("test_resnet", 64), ("test_efficientnet", 64), ("test_vit", 160)))
def test_timm(name, side):
    torch.manual_seed(0)
    model, x = timm.create_model(name).eval(), image(side)
    backbone = Backbone(model, example_inputs=x)
    with torch.no_grad():
        features = model.forward_features(x)
        assert same(backbone.forward_features(x), features)
        assert same(backbone.forward_head(features), model(x))
        assert same(backbone.forward_head(features, pre_logits=True), model.forward_head(features, pre_logits=True))
        assert same(backbone.forward_intermediates(x), model.forward_intermediates(x))
        early = {"indices": (1,), "stop_early": True, "norm": True}
        assert same(backbone.forward_intermediates(x, **early), model.forward_intermediates(x, **early))
        assert backbone.num_features == model.num_features
        assert backbone.prune_intermediate_layers((1,)) == model.prune_intermediate_layers((1,))
        assert count(backbone) == count(model)
        assert same(backbone(x), model.forward_features(x))


@pytest.mark.parametrize("name", ("mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1"))
def test_torchvision(name):
    torch.manual_seed(0)
    model, x = torchvision.models.get_model(name, weights=None).eval(), image(64)
    backbone = Backbone(model, example_inputs=x)
    with torch.no_grad():
        features = backbone.forward_features(x)
        assert features.shape[2:] == torch.Size((2, 2) if name != "squeezenet1_1" else (3, 3))
        assert same(backbone.forward_head(features), model(x))
        backbone.reset_classifier(0)
        assert same(backbone(x), backbone.forward_head(features, pre_logits=True))


@pytest.mark.parametrize(
    ("model", "config", "options"),
    (
        ("ViTForImageClassification", "ViTConfig", TINY),
        ("Dinov2ForImageClassification", "Dinov2Config", TINY),
        (
            "ResNetForImageClassification",
            "ResNetConfig",
            {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1]},
        ),
    ),
)
def test_transformers(model, config, options):
    torch.manual_seed(0)
    built = getattr(transformers, model)(getattr(transformers, config)(**options, num_labels=4)).eval()
    x = image(32)
    backbone = Backbone(built, example_inputs={"pixel_values": x})
    with torch.no_grad():
        state = getattr(built, built.base_model_prefix)(x).last_hidden_state
        assert same(backbone.forward_features(pixel_values=x), state)
        assert same(backbone.forward_head(state), built(x).logits)
        assert same(backbone(pixel_values=x).logits, built(x).logits)


# -- timm's guide to feature extraction, on models built without features_only -----------------------------------------


@pytest.mark.zoo
def test_guide_unpooled():
    x = torch.randn(2, 3, 299, 299)
    with torch.no_grad():
        assert Backbone(timm.create_model("xception41").eval()).forward_features(x).shape == (2, 2048, 10, 10)
        for name, shape in (("resnet50", (2, 2048, 7, 7)), ("densenet121", (2, 1024, 7, 7))):
            backbone = Backbone(timm.create_model(name).eval())
            backbone.reset_classifier(0, "")
            assert backbone(torch.randn(2, 3, 224, 224)).shape == shape


@pytest.mark.zoo
@pytest.mark.parametrize(("name", "shape"), (("resnet50", (2, 2048)), ("ese_vovnet19b_dw", (2, 1024))))
def test_guide_pooled(name, shape):
    backbone = Backbone(timm.create_model(name).eval())
    backbone.reset_classifier(0)
    with torch.no_grad():
        assert backbone(torch.randn(2, 3, 224, 224)).shape == shape


@pytest.mark.zoo
def test_guide_without_classifier_from_the_start():
    with torch.no_grad():
        for pool, shape in (("avg", (2, 2048)), ("", (2, 2048, 7, 7))):
            model = timm.create_model("resnet50", num_classes=0, global_pool=pool).eval()
            x = torch.randn(2, 3, 224, 224)
            assert torch.equal(Backbone(model)(x), model(x))
            assert model(x).shape == shape


@pytest.mark.zoo
def test_guide_vision_transformer():
    model = timm.create_model("vit_medium_patch16_reg1_gap_256").eval()
    backbone, x = Backbone(model), torch.randn(2, 3, 256, 256)
    with torch.no_grad():
        features = backbone.forward_features(x)
        assert features.shape == (2, 257, 512)
        assert backbone.forward_head(features).shape == (2, 1000)
        final, maps = backbone.forward_intermediates(x)
        assert [tuple(held.shape) for held in maps] == [(2, 512, 16, 16)] * 12
        assert same((final, maps), model.forward_intermediates(x))
        assert count(backbone) == 38880232
        assert backbone.prune_intermediate_layers(indices=(-2,)) == [10]
        assert count(backbone) == 35212800
        model.prune_intermediate_layers(indices=(-2,))
        assert same(backbone(x), model(x))


ZOO = (
    *(
        "deit_tiny_distilled_patch16_224",
        "vit_tiny_patch16_dinov3_qkvb",
        "swin_tiny_patch4_window7_224",
    ),
    *("regnetx_002", "mobilenetv3_small_050", "densenet121", "convnextv2_atto", "pvt_v2_b0", "focalnet_tiny_srf"),
)


@pytest.mark.zoo
@pytest.mark.parametrize("name", ZOO)
def test_intermediates_of_timms_families(name):
    torch.manual_seed(0)
    model, x = timm.create_model(name).eval(), image(224)
    backbone = Backbone(model, example_inputs=x)
    with torch.no_grad():
        assert same(backbone.forward_intermediates(x), model.forward_intermediates(x))
        normed = {"indices": 2, "norm": True, "intermediates_only": True}
        assert same(backbone.forward_intermediates(x, **normed), model.forward_intermediates(x, **normed))


@pytest.mark.zoo
def test_a_stem_that_lowers_the_resolution_twice_gives_a_level_more():
    torch.manual_seed(0)
    model, x = timm.create_model("mambaout_femto").eval(), image(224)
    backbone = Backbone(model, example_inputs=x)
    with torch.no_grad():
        final, maps = model.forward_intermediates(x)
        assert backbone.feature_info.module_name()[0] == "stem.act"
        assert same(backbone.forward_intermediates(x, indices=len(maps)), (final, maps))
