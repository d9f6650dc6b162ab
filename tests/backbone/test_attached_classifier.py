"""A classifier put on a model that has none."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from fxfeat import Backbone, RequestError
from tests.backbone import models
from tests.backbone.models import IMAGE


class Encoder(nn.Module):
    """Maps, and nothing that pools them."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.stages(x)


class Pooled(Encoder):
    """An embedding, and no place for a classifier."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.stages(x).mean((2, 3))


class Removed(models.Conv):
    """The classifier is an identity."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Identity()


class TokenEncoder(models.Tokens):
    """All tokens, normed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.embed(x)


class Upsampling(nn.Module):
    """A decoder: its result is larger than what it was made from."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 4, 4), nn.ConvTranspose2d(8, 5, 4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(self.down(x).relu())


def wrap(cls):
    torch.manual_seed(0)
    model = cls().eval()
    return model, Backbone(model, example_inputs=IMAGE)


def test_an_identity_is_the_place():
    model, backbone = wrap(Removed)
    assert (backbone.num_classes, backbone.head_hidden_size) == (0, 8)
    backbone.reset_classifier(10)
    assert torch.equal(backbone(IMAGE), backbone.fc(model(IMAGE)))
    assert (tuple(backbone(IMAGE).shape), backbone.num_classes) == ((2, 10), 10)


@pytest.mark.parametrize("name", ("resnet10t", "test_vit"))
def test_the_place_is_timms(name):
    options = {"img_size": 64} if "vit" in name else {}
    model = timm.create_model(name, pretrained=False, num_classes=0, **options).eval()
    picture = torch.rand(1, 3, 64, 64)
    backbone = Backbone(model, example_inputs=picture)
    backbone.reset_classifier(10)
    model.reset_classifier(10)
    model.load_state_dict(backbone.state_dict())
    assert torch.equal(backbone(picture), model(picture))


def test_an_embedding_is_classified():
    model, backbone = wrap(Pooled)
    assert isinstance(backbone.get_classifier(), nn.Identity)
    backbone.reset_classifier(10)
    assert torch.equal(backbone(IMAGE), backbone.get_classifier()(model(IMAGE)))
    assert torch.equal(backbone.forward_head(backbone.forward_features(IMAGE), pre_logits=True), model(IMAGE))
    assert [name for name in backbone.state_dict() if name not in model.state_dict()] == [
        "classifier.weight",
        "classifier.bias",
    ]
    assert torch.equal(copy.deepcopy(backbone)(IMAGE), backbone(IMAGE))
    backbone.reset_classifier(0)
    assert torch.equal(backbone(IMAGE), model(IMAGE))


@pytest.mark.parametrize("pool", ("avg", "max", "catavgmax"))
def test_a_map_is_pooled_first(pool):
    model, backbone = wrap(Encoder)
    assert (backbone.num_features, backbone.head_hidden_size, backbone.num_classes) == (8, 8, 0)
    assert torch.equal(backbone.forward_features(IMAGE), model(IMAGE))
    backbone.reset_classifier(10, pool)
    embedding = backbone.forward_head(model(IMAGE), pre_logits=True)
    assert embedding.shape == (2, backbone.head_hidden_size)
    assert torch.equal(backbone(IMAGE), backbone.classifier(embedding))


def test_tokens_are_pooled_first():
    model, backbone = wrap(TokenEncoder)
    backbone.reset_classifier(10, "avg")
    assert torch.equal(backbone(IMAGE), backbone.classifier(model(IMAGE)[:, 1:].mean(1)))


def test_a_map_without_pooling_has_no_classifier():
    _, backbone = wrap(Encoder)
    with pytest.raises(RequestError) as caught:
        backbone.reset_classifier(10)
    assert str(caught.value) == (
        "Encoder pools nothing, so a classifier needs a pooling: pass global_pool='avg'. Encoder can have 'avg', "
        "'max', 'avgmax', 'catavgmax', None (as it is) or '' (no pooling)."
    )


def test_a_decoder_is_no_encoder():
    _, backbone = wrap(Upsampling)
    assert isinstance(backbone.get_classifier(), nn.Identity)
    with pytest.raises(RequestError) as caught:
        backbone.forward_features(IMAGE)
    assert str(caught.value) == (
        "Upsampling has no head: fxfeat looked for a value with positions, pooling after it and a linear layer that "
        "makes scores, but its result of shape (2, 5, 16, 16) still has positions, so nothing pools it. For inner "
        "values of such a model, use fxfeat.features_only or fxfeat.create_feature_extractor."
    )
