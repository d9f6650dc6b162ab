"""Where features end and the head begins: one tiny model for each way to get it wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fxfeat import Backbone
from tests.backbone import models
from tests.backbone.build import build
from tests.backbone.models import IMAGE

# model, name of the features, their shape, the classifier's path, shape before the scores
SPLITS = (
    (models.Conv, "act", (2, 8, 2, 2), "fc", (2, 8)),
    (models.Flattened, "features", (2, 4, 4, 4), "classifier.3", (2, 12)),
    (models.ConvClassifier, "features", (2, 8, 8, 8), "classifier.1", (2, 8)),
    (models.Gated, "mul", (2, 8, 8, 8), "fc", (2, 8)),
    (models.Tokens, "norm", (2, 17, 8), "head", (2, 8)),
    (models.PatchMean, "norm", (2, 17, 8), "head", (2, 8)),
    (models.Gathered, "norm", (2, 17, 8), "head", (2, 8)),
    (models.Normed, "act", (2, 8, 2, 2), "fc", (2, 8)),
    (models.Widened, "act", (2, 8, 2, 2), "fc.fc", (2, 16)),
    (models.Patchified, "second", (2, 8, 1, 1), "fc", (2, 8)),
    (models.WholeMap, "features", (2, 4, 4, 4), "fc2", (2, 12)),
    (models.Overwriting, "act", (2, 8, 2, 2), "fc", (2, 8)),
)


def seen(model: nn.Module, path: str, run: object, before: bool = False) -> torch.Tensor:
    """Return what goes into a module, or what it returns, at its last call."""
    held: list[torch.Tensor] = []
    module = model.get_submodule(path)
    if before:
        handle = module.register_forward_pre_hook(lambda module, inputs: held.append(inputs[0].clone()))
    else:
        handle = module.register_forward_hook(lambda module, inputs, result: held.append(result.clone()))
    run()  # type: ignore[operator]
    handle.remove()
    return held[-1]


@pytest.mark.parametrize(
    ("cls", "name", "shape", "path", "embedding"), SPLITS, ids=lambda value: getattr(value, "__name__", None)
)
def test_split(cls, name, shape, path, embedding):
    model, backbone = build(cls)
    features = backbone.forward_features(IMAGE)
    assert (backbone.split.names, tuple(features.shape)) == ((name,), shape)
    if name in dict(model.named_modules()):
        assert torch.equal(features, seen(model, name, lambda: model(IMAGE)))
    assert torch.equal(backbone.forward_head(features), model(IMAGE))
    assert backbone.get_classifier() is backbone.get_submodule(path)
    before = backbone.forward_head(features, pre_logits=True)
    assert tuple(before.shape) == embedding
    if cls is not models.ConvClassifier:
        assert torch.equal(before, seen(model, path, lambda: model(IMAGE), before=True))


@pytest.mark.parametrize("cls", [held[0] for held in SPLITS], ids=lambda cls: cls.__name__)
def test_other_batches_and_the_callers_tensor(cls):
    model, backbone = build(cls)
    image = torch.rand(3, 3, 16, 16)
    features = backbone.forward_features(image)
    kept = features.clone()
    scores = model(image)
    assert torch.equal(backbone.forward_head(features), scores)
    assert torch.equal(features, kept)
    assert torch.equal(backbone.forward_head(features), scores)


def test_two_classifiers_are_joined_as_their_scores_are():
    model, backbone = build(models.TwoHeads)
    features = backbone.forward_features(IMAGE)
    assert torch.equal(backbone.forward_head(features), model(IMAGE))
    assert torch.equal(backbone.forward_head(features, pre_logits=True), (features[:, 0] + features[:, 1]) / 2)
    assert backbone.get_classifier() == (backbone.head, backbone.head_dist)


def test_classifiers_on_different_maps_have_features_each():
    model, backbone = build(models.TwoBranches)
    features = backbone.forward_features(IMAGE)
    assert backbone.split.names == ("left", "right")
    assert all(map(torch.equal, features, (model.left(IMAGE), model.right(IMAGE))))
    assert torch.equal(backbone.forward_head(features), model(IMAGE))
    before = torch.cat([held.mean((2, 3)) for held in features], 1)
    assert torch.equal(backbone.forward_head(features, pre_logits=True), before)
    assert backbone.num_features == 10


def test_a_pooled_convolution_is_pooled_without_it():
    _, backbone = build(models.ConvClassifier)
    features = backbone.forward_features(IMAGE)
    assert torch.equal(backbone.forward_head(features, pre_logits=True), features.mean((2, 3)))


def test_a_map_of_one_position_is_a_map():
    torch.manual_seed(0)
    model = models.Conv().eval()
    backbone = Backbone(model, example_inputs=torch.rand(2, 3, 8, 8))
    assert backbone.split.names == ("act",)
    assert backbone.forward_features(IMAGE[..., :8, :8]).shape == (2, 8, 1, 1)


def test_logits_of_a_result_with_names():
    model, backbone = build(models.Named)
    features = backbone.forward_features(pixel_values=IMAGE)
    result = model(IMAGE)
    assert torch.equal(features, result["hidden"])
    assert torch.equal(backbone.forward_head(features), result["logits"])
    assert torch.equal(backbone.forward_head(features, pre_logits=True), result["pooled"])
    assert list(backbone(IMAGE)) == list(result)


def test_train_mode_has_a_split_of_its_own():
    model, backbone = build(models.Auxiliary)
    backbone.train()
    features = backbone.forward_features(IMAGE)
    assert features.shape == (2, 8, 2, 2)
    assert backbone.forward_head(features).shape == (2, 5)
    assert len(backbone(IMAGE)) == 2
    model.eval()
    assert torch.equal(backbone.eval().forward_head(backbone.forward_features(IMAGE)), model(IMAGE))


def test_dropout_of_the_head_follows_the_mode():
    _, backbone = build(models.Conv)
    features = backbone.forward_features(IMAGE)
    torch.manual_seed(0)
    dropped = backbone.train().forward_head(features, pre_logits=True)
    assert not torch.equal(dropped, backbone.eval().forward_head(features, pre_logits=True))


def test_a_model_without_positions_is_split_before_its_last_layer():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3)).eval()
    backbone = Backbone(model, example_inputs=torch.rand(2, 4))
    rows = torch.rand(5, 4)
    assert backbone.split.names == ("1",)
    assert backbone.num_features == 6
    assert torch.equal(backbone.forward_head(backbone.forward_features(rows)), model(rows))


def test_softmax_is_no_part_of_an_embedding():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4), nn.Softmax(1)
    ).eval()
    backbone = Backbone(model, example_inputs=IMAGE)
    features = backbone.forward_features(IMAGE)
    assert torch.equal(backbone.forward_head(features), model(IMAGE))
    assert torch.equal(backbone.forward_head(features, pre_logits=True), model[:3](IMAGE))


def test_the_split_says_why():
    _, backbone = build(models.Conv)
    assert backbone.split.why == (
        "features are 'act' (2, 8, 2, 2), the last value with positions before the pooling; the classifier is 'fc'"
    )


def test_a_model_without_classifier_is_split_at_its_pooling():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    backbone = Backbone(model, example_inputs=IMAGE)
    features = backbone.forward_features(IMAGE)
    assert features.shape == (2, 4, 14, 14)
    assert torch.equal(backbone.forward_head(features), model(IMAGE))
    assert torch.equal(backbone.forward_head(features, pre_logits=True), model(IMAGE))
    assert isinstance(backbone.get_classifier(), nn.Identity)
    assert (backbone.num_classes, backbone.head_hidden_size) == (0, 4)


def test_a_plain_encoder_is_its_features():
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    backbone = Backbone(encoder, example_inputs=IMAGE)
    features = backbone.forward_features(IMAGE)
    assert torch.equal(features, encoder(IMAGE))
    assert torch.equal(backbone.forward_head(features), features)
    assert torch.equal(backbone.forward_head(features, pre_logits=True), features)
    assert (backbone.num_features, backbone.num_classes) == (4, 0)
    assert backbone.split.why == (
        "features are '2' (2, 4, 14, 14), the model's result, which it does not pool; no classifier was found"
    )
