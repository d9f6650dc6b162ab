"""The same numbers, names and trained parameters as torchvision's own detectors on a ResNet."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import detection as theirs
from torchvision.models import resnet18, resnet50
from torchvision.models.detection.backbone_utils import BackboneWithFPN, resnet_fpn_backbone

import fxfeat
from fxfeat import detection
from tests.detection.models import IMAGE as SMALL
from tests.detection.models import Staged

IMAGE = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
LAYERS = {f"layer{index}": str(index - 1) for index in range(1, 5)}


def test_values_are_those_of_backbone_with_fpn():
    torch.manual_seed(0)
    expected = BackboneWithFPN(resnet50(), LAYERS, [256, 512, 1024, 2048], 256)
    torch.manual_seed(0)
    backbone = fxfeat.fpn_backbone(resnet50())
    assert list(backbone.state_dict()) == list(expected.state_dict())
    for training in (False, True):
        with torch.no_grad():
            found, wanted = backbone.train(training)(IMAGE), expected.train(training)(IMAGE)
        assert list(found) == list(wanted) == ["0", "1", "2", "3", "pool"]
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_frozen_values_are_those_of_resnet_fpn_backbone():
    expected = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=3)
    model = resnet18()
    for held in model.modules():
        if isinstance(held, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(held.running_mean)
            torch.nn.init.uniform_(held.running_var, 0.5, 2)
            torch.nn.init.normal_(held.weight)
    backbone = fxfeat.fpn_backbone(model, freeze_norm=True, trainable_levels=3)
    expected.load_state_dict(backbone.state_dict())
    found, wanted = backbone(IMAGE), expected(IMAGE)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("count", [3, 5])
def test_the_same_parameters_are_trained(count):
    # With frozen norms, those of the stem are no parameters, as in torchvision's backbone with pretrained weights.
    expected = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=count)
    backbone = fxfeat.fpn_backbone(resnet18(), freeze_norm=True, trainable_levels=count)
    assert _trained(backbone) == _trained(expected)


def _trained(module):
    return {name for name, held in module.named_parameters() if held.requires_grad}


OTHERS = [
    (detection.faster_rcnn, theirs.fasterrcnn_resnet50_fpn, {}),
    (detection.keypoint_rcnn, theirs.keypointrcnn_resnet50_fpn, {"num_keypoints": 5}),
    (detection.retinanet, theirs.retinanet_resnet50_fpn, {}),
    (detection.fcos, theirs.fcos_resnet50_fpn, {}),
]


@pytest.mark.zoo
@pytest.mark.parametrize(("ours", "other", "options"), OTHERS)
def test_detectors_have_torchvisions_names(ours, other, options):
    """The rule: the same names, without ``num_batches_tracked`` where norms are frozen."""
    expected = other(weights=None, weights_backbone=None, num_classes=3, **options).state_dict()
    found = ours(resnet50(), num_classes=3, freeze_norm=True, **options).state_dict()
    expected = {name: held for name, held in expected.items() if not name.endswith("num_batches_tracked")}
    assert list(found) == list(expected)
    assert [held.shape for held in found.values()] == [held.shape for held in expected.values()]


def test_mask_rcnn_predicts_what_torchvisions_does():
    torch.manual_seed(0)
    options = {"min_size": 96, "max_size": 128, "box_score_thresh": 0.0, "box_detections_per_img": 5}
    expected = theirs.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3, **options).eval()
    detector = detection.mask_rcnn(resnet50(), 3, **options).eval()
    assert list(detector.state_dict()) == list(expected.state_dict())
    detector.load_state_dict(expected.state_dict())
    images = [torch.rand(3, 80, 100), torch.rand(3, 96, 70)]
    with torch.no_grad():
        found, wanted = detector(images), expected(images)
    for mine, their in zip(found, wanted, strict=True):
        assert len(their["boxes"]) > 0
        assert all(torch.equal(mine[key], their[key]) for key in their)


def test_weights_saved_by_torchvision_load_into_a_detector_with_frozen_norms():
    backbone = fxfeat.fpn_backbone(Staged(), example_inputs=SMALL, freeze_norm=True)
    saved = fxfeat.fpn_backbone(Staged(), example_inputs=SMALL).state_dict()
    assert any(name.endswith("num_batches_tracked") for name in saved)
    backbone.load_state_dict(saved)  # FrozenBatchNorm2d leaves the counters out
    assert all(torch.equal(held, saved[name]) for name, held in backbone.state_dict().items())


def test_default_anchors_are_torchvisions():
    strided = fxfeat.fpn_backbone(Staged(), example_inputs=SMALL)
    assert strided.anchor_generator().sizes == ((32,), (64,), (128,), (256,), (512,))
    assert strided.anchor_generator().aspect_ratios == ((0.5, 1.0, 2.0),) * 5
    retina = detection.retinanet(Staged(), 3, example_inputs=SMALL).anchor_generator
    assert retina.sizes == ((32, 40, 50), (64, 80, 101), (128, 161, 203), (256, 322, 406), (512, 645, 812))
    assert retina.aspect_ratios == ((0.5, 1.0, 2.0),) * 5
    points = detection.fcos(Staged(), 3, example_inputs=SMALL).anchor_generator
    assert (points.sizes, points.aspect_ratios) == (((8,), (16,), (32,), (64,), (128,)), ((1.0,),) * 5)
