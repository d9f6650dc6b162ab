"""Whole detectors train and predict."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection import FCOS, FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet

import fxfeat
from fxfeat import detection
from tests.detection.models import IMAGE, Flat, Staged, Windows

SMALL = {"min_size": 96, "max_size": 160}
FEW = {"rpn_post_nms_top_n_train": 20, "rpn_post_nms_top_n_test": 10, "box_score_thresh": 0.0}
KINDS = [
    (detection.faster_rcnn, FasterRCNN, FEW),
    (detection.mask_rcnn, MaskRCNN, FEW),
    (detection.keypoint_rcnn, KeypointRCNN, {**FEW, "num_keypoints": 4}),
    (detection.retinanet, RetinaNet, {}),
    (detection.fcos, FCOS, {}),
]
MODELS = {"staged": (Staged, (64, 64)), "flat": (Flat, (96, 96)), "windows": (Windows, (56, 56))}


def images():
    return [torch.rand(3, 100, 133), torch.rand(3, 96, 120)]


def targets(images):
    found = []
    for image in images:
        boxes = torch.tensor([[10.0, 12, 60, 70], [30, 20, 90, 88]])
        masks = torch.zeros(2, *image.shape[-2:], dtype=torch.uint8)
        masks[:, 20:60, 35:55] = 1
        points = torch.tensor([40.0, 50, 1]).repeat(2, 4, 1)
        found.append({"boxes": boxes, "labels": torch.tensor([1, 1]), "masks": masks, "keypoints": points})
    return found


def build(kind, model, **options):
    make, size = MODELS[model]
    example = torch.rand(2, 3, *size)
    return kind(make(), 2, example_inputs=example, out_channels=32, **{**SMALL, **options})


@pytest.mark.parametrize(("kind", "cls", "options"), KINDS, ids=lambda held: getattr(held, "__name__", ""))
@pytest.mark.parametrize("model", ["staged", "flat"])
def test_trains_and_predicts(kind, cls, options, model):
    detector = build(kind, model, **options)
    assert isinstance(detector, cls)
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-3)
    for _ in range(2):
        held = images()
        losses = detector.train()(held, targets(held))
        assert all(loss.isfinite() for loss in losses.values())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        missing = [name for name, p in detector.named_parameters() if p.requires_grad and p.grad is None]
        assert missing == []
        optimizer.step()
    with torch.no_grad():
        found = detector.eval()(images())
    assert [len(held["boxes"].shape) for held in found] == [2, 2]


def test_a_model_of_windows():
    detector = build(detection.mask_rcnn, "windows", **FEW)
    held = images()
    assert sum(detector.train()(held, targets(held)).values()).isfinite()
    with torch.no_grad():
        assert [found["masks"].shape[-2:] for found in detector.eval()(held)] == [(100, 133), (96, 120)]


def test_options_go_where_they_belong():
    detector = build(
        detection.mask_rcnn,
        "staged",
        out_indices=(2, 3),
        extra_blocks=None,
        freeze_norm=True,
        trainable_levels=1,
        box_detections_per_img=7,
    )
    assert detector.backbone.strides == [8, 16]
    assert detector.roi_heads.detections_per_img == 7
    assert detector.transform.min_size == (96,)
    assert detector.roi_heads.mask_roi_pool.output_size == (14, 14)
    assert detector.roi_heads.box_roi_pool.scales == [1 / 8, 1 / 16]


def test_poolings_and_anchors_of_ones_own():
    backbone = fxfeat.fpn_backbone(Staged(), example_inputs=IMAGE, out_channels=16)
    anchors = backbone.anchor_generator(sizes=(16, 32, 64, 128, 256))
    pool = backbone.box_roi_pool(5)
    detector = build(detection.faster_rcnn, "staged", rpn_anchor_generator=anchors, box_roi_pool=pool)
    assert detector.rpn.anchor_generator is anchors
    assert detector.roi_heads.box_roi_pool is pool


def test_torchvisions_own_class_takes_the_backbone():
    backbone = fxfeat.fpn_backbone(Flat(), example_inputs=torch.rand(2, 3, 96, 96), out_channels=16)
    detector = FasterRCNN(
        backbone,
        2,
        rpn_anchor_generator=backbone.anchor_generator(),
        box_roi_pool=backbone.box_roi_pool(),
        **SMALL,
        **FEW,
    )
    held = images()
    assert sum(detector.train()(held, targets(held)).values()).isfinite()


def test_a_backbone_is_taken_as_it_is():
    backbone = fxfeat.fpn_backbone(Staged(), (1, 2), example_inputs=IMAGE, out_channels=32)
    detector = detection.mask_rcnn(backbone, 2, **SMALL, **FEW)
    assert detector.backbone is backbone
    assert detector.roi_heads.mask_roi_pool.featmap_names == ["0", "1"]
    with pytest.raises(fxfeat.RequestError) as raised:
        detection.mask_rcnn(backbone, 2, freeze_norm=True, out_indices=(1,))
    assert str(raised.value) == (
        "The model is a backbone already; pass freeze_norm, out_indices to fpn_backbone instead."
    )


def test_anchors_are_given_once():
    backbone = fxfeat.fpn_backbone(Staged(), example_inputs=IMAGE, out_channels=32)
    detector = detection.retinanet(backbone, 2, anchor_sizes=(8, 16, 32, 64, 128), aspect_ratios=(1.0,))
    assert detector.anchor_generator.num_anchors_per_location() == [1] * 5
    with pytest.raises(
        fxfeat.RequestError, match=r"^Pass anchor_sizes= or an anchor generator of your own, not both\.$"
    ):
        detection.faster_rcnn(backbone, 2, anchor_sizes=(8,), rpn_anchor_generator=backbone.anchor_generator())
