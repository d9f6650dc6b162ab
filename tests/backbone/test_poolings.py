"""Other poolings than a model's own: timm's own values after the same call with the same weights, or an error."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from fxfeat import Backbone, RequestError
from tests.backbone import models
from tests.backbone.build import build
from tests.backbone.models import IMAGE

PICTURE = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=("test_vit", "resnet10t", "mobilenetv3_small_050"))
def timms(request):
    torch.manual_seed(0)
    options = {"img_size": 64} if "vit" in request.param else {}
    model = timm.create_model(request.param, pretrained=False, **options).eval()
    return model, Backbone(model, example_inputs=PICTURE)


@pytest.mark.parametrize("pool", ("avg", "max", "avgmax", "catavgmax", "token", ""))
def test_timms_values_after_the_same_call(timms, pool):
    theirs, backbone = copy.deepcopy(timms)
    count = 0 if pool == "" else 5
    try:
        theirs.reset_classifier(count, pool)
    except AssertionError:
        with pytest.raises(RequestError, match=f"^global_pool='{pool}' cannot be had: "):
            backbone.reset_classifier(count, pool)
        return
    if pool == "token" and not getattr(theirs, "has_class_token", False):
        return
    backbone.reset_classifier(count, pool)
    backbone.get_classifier().load_state_dict(theirs.get_classifier().state_dict())
    features = backbone.forward_features(PICTURE)
    assert torch.equal(backbone(PICTURE), theirs(PICTURE))
    assert torch.equal(backbone.forward_head(features), theirs(PICTURE))
    embedding = theirs.forward_head(theirs.forward_features(PICTURE), pre_logits=True)
    assert torch.equal(backbone.forward_head(features, pre_logits=True), embedding)
    assert (backbone.num_features, backbone.head_hidden_size) == (theirs.num_features, theirs.head_hidden_size)
    assert list(backbone.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize(
    ("pool", "expected"),
    (
        ("avg", lambda x: x.mean((2, 3))),
        ("max", lambda x: x.amax((2, 3))),
        ("avgmax", lambda x: 0.5 * (x.mean((2, 3)) + x.amax((2, 3)))),
        ("catavgmax", lambda x: torch.cat((x.mean((2, 3)), x.amax((2, 3))), 1)),
    ),
)
def test_a_mean_written_as_arithmetic(pool, expected):
    _, backbone = build(models.Conv)
    features = backbone.forward_features(IMAGE)
    backbone.reset_classifier(3, pool)
    assert torch.equal(backbone.forward_head(features, pre_logits=True), expected(features))
    assert torch.equal(backbone(IMAGE), backbone.fc(expected(features)))


def test_the_patches_alone_are_pooled():
    _, backbone = build(models.Tokens)
    tokens = backbone.forward_features(IMAGE)
    backbone.reset_classifier(0, "max")
    assert torch.equal(backbone(IMAGE), tokens[:, 1:].amax(1))


class Late(models.Tokens):
    """The class token comes in behind the blocks."""

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.patch(x).flatten(2).transpose(1, 2) + self.pos[:, 1:])
        return self.norm(torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1))


def test_a_class_token_that_comes_late_is_none_of_the_patches():
    _, backbone = build(Late)
    tokens = backbone.forward_features(IMAGE)
    backbone.reset_classifier(0, "avg")
    assert torch.equal(backbone(IMAGE), tokens[:, 1:].mean(1))


def test_what_lies_behind_the_pooling_stays():
    _, backbone = build(models.PatchMean)
    tokens = backbone.forward_features(IMAGE)
    backbone.reset_classifier(4, "token")
    assert torch.equal(backbone(IMAGE), backbone.head(backbone.fc_norm(tokens[:, 0])))
    backbone.reset_classifier(0, "")
    assert torch.equal(backbone(IMAGE), backbone.fc_norm(tokens))


def test_the_pooling_stays_until_another_is_asked_for():
    model, backbone = build(models.Conv)
    backbone.reset_classifier(3, "max")
    backbone.reset_classifier(4)
    features = backbone.forward_features(IMAGE)
    assert torch.equal(backbone(IMAGE), backbone.fc(features.amax((2, 3))))
    backbone.reset_classifier(5, "avg")
    backbone.fc.load_state_dict(model.fc.state_dict())
    assert torch.equal(backbone(IMAGE), model(IMAGE))


def test_a_copy_pools_the_same():
    _, backbone = build(models.Conv)
    backbone.reset_classifier(3, "catavgmax")
    assert torch.equal(copy.deepcopy(backbone)(IMAGE), backbone(IMAGE))


class Grown(models.Conv):
    """A norm behind the pooling takes as many channels as that gives."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 5))


@pytest.mark.parametrize(
    ("cls", "pool", "reason", "kinds"),
    (
        (models.Conv, "token", "the model has no class token", "'avg', 'max', 'avgmax', 'catavgmax', "),
        (
            Grown,
            "catavgmax",
            "there are layers behind the pooling that take another number of channels",
            "'avg', 'max', 'avgmax', ",
        ),
        (models.Gathered, "avg", "weights go into the model's own pooling, which no other can stand in for", ""),
        (models.TwoHeads, "avg", "several classifiers look at different values", ""),
        (
            models.Flattened,
            "avg",
            "the model makes (2, 64) of features of shape (2, 4, 4, 4), which is no pooling",
            "",
        ),
        (models.Tokens, "catavgmax", "it is not known of sequences", "'avg', 'max', 'avgmax', 'token', "),
    ),
)
def test_poolings_that_do_not_fit(cls, pool, reason, kinds):
    _, backbone = build(cls)
    with pytest.raises(RequestError) as caught:
        backbone.reset_classifier(3, pool)
    none = " alone" if cls is models.TwoHeads else " or '' (no pooling)"
    assert str(caught.value) == (
        f"global_pool={pool!r} cannot be had: {reason}. {cls.__name__} can have {kinds}None (as it is){none}."
    )


def test_a_pooling_that_nobody_knows():
    _, backbone = build(models.Conv)
    with pytest.raises(RequestError) as caught:
        backbone.reset_classifier(3, "median")
    assert str(caught.value) == (
        "global_pool is 'median'; Conv can have 'avg', 'max', 'avgmax', 'catavgmax', None (as it is) or '' (no "
        "pooling)."
    )


def test_a_norm_of_vectors_takes_no_map():
    _, backbone = build(Grown)
    with pytest.raises(RequestError) as caught:
        backbone.reset_classifier(0, "")
    assert str(caught.value) == (
        "global_pool='' cannot be had: what comes behind the pooling does not work at each place of a map of shape "
        "(2, 8, 2, 2). Use forward_features for the features."
    )


@pytest.mark.parametrize("wrong", (-1, "3", 2.5, True, None))
def test_a_wrong_number_of_classes(wrong):
    _, backbone = build(models.Conv)
    with pytest.raises(RequestError) as caught:
        backbone.reset_classifier(wrong)
    assert str(caught.value) == f"num_classes is {wrong!r}; it must be the number of scores, or 0 for no classifier."
