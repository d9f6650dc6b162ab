"""Detectors, and their backbones, from any model."""

from fxfeat.detection.build import fpn_backbone
from fxfeat.detection.detectors import faster_rcnn, fcos, keypoint_rcnn, mask_rcnn, retinanet
from fxfeat.detection.fpn import FPNBackbone

__all__ = ["FPNBackbone", "faster_rcnn", "fcos", "fpn_backbone", "keypoint_rcnn", "mask_rcnn", "retinanet"]
