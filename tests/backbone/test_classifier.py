"""Getting, replacing and removing classifiers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fxfeat import Backbone, RequestError
from tests.backbone import models
from tests.backbone.build import build
from tests.backbone.models import IMAGE


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    "cls", (models.Conv, models.Flattened, models.ConvClassifier, models.TwoHeads, models.Normed, models.Widened)
)
def test_without_classifier_the_model_gives_its_embedding(cls):
    model, backbone = build(cls)
    before = backbone.forward_head(backbone.forward_features(IMAGE), pre_logits=True)
    classifier = backbone.get_classifier()
    held = sum(map(count, classifier)) if isinstance(classifier, tuple) else count(classifier)
    backbone.reset_classifier(0)
    assert torch.equal(backbone(IMAGE), before)
    assert torch.equal(backbone.forward_head(backbone.forward_features(IMAGE), pre_logits=True), before)
    assert count(backbone) == count(model) - held
    assert backbone.num_classes == 0
    left = backbone.get_classifier()
    assert all(isinstance(module, nn.Identity) for module in (left if isinstance(left, tuple) else (left,)))


@pytest.mark.parametrize("cls", (models.Conv, models.ConvClassifier, models.TwoHeads, models.Normed))
@pytest.mark.parametrize("removed", (False, True))
def test_another_number_of_classes(cls, removed):
    model, backbone = build(cls)
    if removed:
        backbone.reset_classifier(0)
    backbone.reset_classifier(3)
    assert backbone(IMAGE).shape == (2, 3)
    assert backbone.num_classes == 3
    assert torch.equal(backbone(IMAGE), backbone.forward_head(backbone.forward_features(IMAGE)))
    assert model(IMAGE).shape == (2, 5)


def test_a_new_classifier_is_of_the_same_kind_mode_and_dtype():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 5, 1, bias=False), nn.Flatten())
    backbone = Backbone(model.double().eval(), example_inputs=IMAGE.double())
    backbone.reset_classifier(7)
    made = backbone.get_classifier()
    assert (type(made), made.out_channels, made.bias, made.weight.dtype) == (nn.Conv2d, 7, None, torch.float64)
    assert not made.training
    assert backbone(IMAGE.double()).shape == (2, 7)


def test_without_pooling_the_model_gives_its_features():
    _, backbone = build(models.Conv)
    features = backbone.forward_features(IMAGE)
    backbone.reset_classifier(0, "")
    assert torch.equal(backbone(IMAGE), features)
    assert torch.equal(backbone.forward_head(features), features)
    assert torch.equal(backbone.forward_head(features, pre_logits=True), features)


def test_tokens_are_classified_one_by_one_without_pooling():
    _, backbone = build(models.Tokens)
    backbone.reset_classifier(3, "")
    assert torch.equal(backbone(IMAGE), backbone.head(backbone.forward_features(IMAGE)))
    assert backbone(IMAGE).shape == (2, 17, 3)


def test_a_linear_layer_takes_no_map():
    _, backbone = build(models.Conv)
    with pytest.raises(RequestError) as caught:
        backbone.reset_classifier(3, "")
    assert str(caught.value) == (
        "Without pooling the features have shape (2, 8, 2, 2), which the classifier cannot take. Remove it as well: "
        "reset_classifier(0, '')."
    )
    assert backbone(IMAGE).shape == (2, 5)


def test_a_classifier_without_a_module():
    model, backbone = build(models.Functional)
    features = backbone.forward_features(IMAGE)
    assert torch.equal(backbone.forward_head(features), model(IMAGE))
    with pytest.raises(RequestError) as caught:
        backbone.reset_classifier(0)
    assert str(caught.value) == (
        "Functional has no classifier to get or replace: fxfeat looked for the last linear layer on every path to the "
        "scores and found one held by no module of its own (features are 'relu' (2, 8, 8, 8), the last value with "
        "positions before the pooling; the classifier is 'linear')."
    )
