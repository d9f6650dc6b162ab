"""Detectors refuse keyword arguments that nobody knows, and use each that they take."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fxfeat
from fxfeat import detection
from tests.detection.models import IMAGE, Staged

KINDS = (detection.faster_rcnn, detection.mask_rcnn, detection.keypoint_rcnn, detection.retinanet, detection.fcos)


@pytest.fixture(scope="module")
def backbone():
    return fxfeat.fpn_backbone(Staged(), example_inputs=IMAGE, out_channels=32)


def refusal(ask) -> str:
    with pytest.raises(fxfeat.RequestError) as caught:
        ask()
    return str(caught.value)


@pytest.mark.parametrize(
    ("unknown", "hint"),
    (
        ("trainable_layers", " Did you mean 'trainable_levels'?"),
        ("trainable_backbone_layers", " Did you mean 'trainable_levels'?"),
        ("returned_layers", " Did you mean 'out_indices'?"),
        ("min_sise", " Did you mean 'min_size'?"),
        ("anchors_sizes", " Did you mean 'anchor_sizes'?"),
        ("freeze_norms", " Did you mean 'freeze_norm'?"),
        ("progress", " help(torchvision.models.detection) lists the detectors' own."),
    ),
)
@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_keyword(kind, unknown, hint):
    name = {"faster_rcnn": "FasterRCNN", "mask_rcnn": "MaskRCNN", "keypoint_rcnn": "KeypointRCNN"}.get(
        kind.__name__, {"retinanet": "RetinaNet", "fcos": "FCOS"}.get(kind.__name__)
    )
    message = refusal(lambda: kind(Staged(), 3, **{unknown: 0}))
    assert message == f"{name} has no argument {unknown!r}, nor has its backbone.{hint}"


def test_fcos_has_one_square_anchor_a_place(backbone):
    assert refusal(lambda: detection.fcos(backbone, 3, aspect_ratios=(1.0,))) == (
        "FCOS has no argument 'aspect_ratios', nor has its backbone. help(torchvision.models.detection) lists the "
        "detectors' own."
    )


@pytest.mark.parametrize(
    "sizes", ((8, 16, 32, 64, 128), [[8], [16], [32], [64], [128]], np.array([8, 16, 32, 64, 128]))
)
@pytest.mark.parametrize("kind", (detection.fcos, detection.retinanet))
def test_anchor_sizes_are_used(kind, sizes, backbone):
    made = kind(backbone, 3, anchor_sizes=sizes).anchor_generator
    assert made.sizes == ((8,), (16,), (32,), (64,), (128,))


@pytest.mark.parametrize("wrong", (64, "64", 0.5, (), (8, -1, 8, 8, 8), ((), 8, 8, 8, 8)))
def test_anchors_that_are_none(wrong, backbone):
    assert refusal(lambda: detection.retinanet(backbone, 3, anchor_sizes=wrong)) == (
        f"sizes is {wrong!r}; it must be a tuple of positive numbers or of tuples of them, such as (32, 64)."
    )
    assert refusal(lambda: detection.faster_rcnn(backbone, 3, aspect_ratios=wrong)) == (
        f"aspect_ratios is {wrong!r}; it must be a tuple of positive numbers or of tuples of them, such as (0.5, 1.0, "
        "2.0)."
    )


@pytest.mark.parametrize("name", ("anchor_sizes", "aspect_ratios"))
def test_anchors_are_given_in_one_way(name, backbone):
    own = backbone.anchor_generator()
    for kind, generator in (
        (detection.faster_rcnn, "rpn_anchor_generator"),
        (detection.retinanet, "anchor_generator"),
    ):
        message = refusal(lambda kind=kind, g=generator: kind(backbone, 3, **{name: (1.0,), g: own}))
        assert message == f"Pass {name}= or an anchor generator of your own, not both."


@pytest.mark.parametrize("wrong", (0, -3, "3", 2.5, True))
@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_number_of_classes(kind, wrong, backbone):
    message = refusal(lambda: kind(backbone, wrong))
    assert message == f"num_classes is {wrong!r}; it must be a positive int, the background included."


@pytest.mark.parametrize("wrong", ("bn", 1, torch.nn.BatchNorm2d(32)))
def test_a_norm_layer_that_makes_none(wrong):
    assert refusal(lambda: fxfeat.fpn_backbone(Staged(), norm_layer=wrong)) == (
        f"norm_layer is {wrong!r}; it must make a norm for a number of channels, such as torch.nn.BatchNorm2d."
    )


def test_integers_of_numpy():
    given = {"out_channels": np.int64(32), "trainable_levels": np.int32(1), "output_stride": np.int64(16)}
    made = fxfeat.fpn_backbone(Staged(), np.array([0, 1]), example_inputs=IMAGE, **given)
    assert made.out_channels == 32 and type(made.out_channels) is int


@pytest.mark.parametrize(
    "wrap",
    (
        lambda model: fxfeat.features_only(model, example_inputs=IMAGE),
        lambda model: fxfeat.features_only(model, return_dict=True, example_inputs=IMAGE),
        lambda model: fxfeat.Backbone(model, example_inputs=IMAGE),
        lambda model: fxfeat.create_feature_extractor(model, ["output"], example_inputs=IMAGE),
        lambda model: fxfeat.Backbone(fxfeat.Backbone(model, example_inputs=IMAGE), example_inputs=IMAGE),
    ),
    ids=("pyramid", "dict", "backbone", "extractor", "twice"),
)
def test_what_fxfeat_made_is_a_model_too(wrap):
    model = Staged().eval()
    torch.manual_seed(0)
    plain = fxfeat.fpn_backbone(model, example_inputs=IMAGE, out_channels=16).eval()
    wrapped = wrap(model)
    torch.manual_seed(0)
    made = fxfeat.fpn_backbone(wrapped, example_inputs=IMAGE, out_channels=16).eval()
    assert made.strides == plain.strides
    assert all(map(torch.equal, made(IMAGE).values(), plain(IMAGE).values()))
