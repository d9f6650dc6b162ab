"""Whole detectors of torchvision on any model."""

from __future__ import annotations

import inspect
import math
from typing import Any

from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator

from fxfeat.detection.anchors import check_anchors, make_anchors
from fxfeat.detection.build import build_backbone, fpn_backbone
from fxfeat.detection.fpn import FPNBackbone
from fxfeat.detection.keywords import check_classes, check_keywords
from fxfeat.errors import RequestError
from fxfeat.vision.reduction import side_of, split_axes

_TWO_STAGE_STRIDE = 4
_ONE_STAGE_STRIDE = 8
_RETINA_OCTAVES = (1, 2 ** (1 / 3), 2 ** (2 / 3))
_RATIOS = (0.5, 1.0, 2.0)
_FOR_BACKBONE = frozenset(inspect.signature(fpn_backbone).parameters) - {"model"}


def faster_rcnn(
    model: nn.Module, num_classes: int, *, anchor_sizes: Any = None, aspect_ratios: Any = None, **kwargs: Any
) -> FasterRCNN:
    """Build Faster R-CNN on a model.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 16, 2, 2))
        >>> detector = faster_rcnn(model, 3, min_size=64)
        >>> sorted(detector.eval()([torch.rand(3, 64, 80)])[0])
        ['boxes', 'labels', 'scores']

    Args:
        model: any module that takes images ``(N, C, H, W)``, see ``fxfeat.fpn_backbone``; or what that returned.
        num_classes: how many classes there are, the background included.
        anchor_sizes: as ``sizes`` of ``FPNBackbone.anchor_generator``.
        aspect_ratios: as for ``FPNBackbone.anchor_generator``.
        kwargs: those of ``fxfeat.fpn_backbone``, and all others those of ``torchvision.models.detection.FasterRCNN``,
            such as ``min_size`` or ``box_detections_per_img``. ``rpn_anchor_generator``, ``box_roi_pool``,
            ``size_divisible`` and ``fixed_size`` follow from the backbone if not given.

    Raises:
        RequestError: for what ``fxfeat.fpn_backbone`` refuses, for keyword arguments that neither side knows, and for
            anchors of another number of levels.
        TraceError: for a model that has no levels or cannot be recorded.

    Source: torchvision's ``fasterrcnn_resnet50_fpn``.
    """
    backbone, rest = _build(FasterRCNN, model, num_classes, kwargs, _TWO_STAGE_STRIDE)
    return FasterRCNN(backbone, num_classes, **_add_regions(backbone, rest, anchor_sizes, aspect_ratios))


def mask_rcnn(
    model: nn.Module, num_classes: int, *, anchor_sizes: Any = None, aspect_ratios: Any = None, **kwargs: Any
) -> MaskRCNN:
    """Build Mask R-CNN on a model.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 16, 2, 2))
        >>> detector = mask_rcnn(model, 3, min_size=64)
        >>> sorted(detector.eval()([torch.rand(3, 64, 80)])[0])
        ['boxes', 'labels', 'masks', 'scores']

    Args:
        model: any module that takes images ``(N, C, H, W)``, see ``fxfeat.fpn_backbone``; or what that returned.
        num_classes: how many classes there are, the background included.
        anchor_sizes: as ``sizes`` of ``FPNBackbone.anchor_generator``.
        aspect_ratios: as for ``FPNBackbone.anchor_generator``.
        kwargs: those of ``fxfeat.fpn_backbone``, and all others those of ``torchvision.models.detection.MaskRCNN``,
            as for ``faster_rcnn``.

    Raises:
        RequestError: for what ``fxfeat.fpn_backbone`` refuses, for keyword arguments that neither side knows, and for
            anchors of another number of levels.
        TraceError: for a model that has no levels or cannot be recorded.

    Source: torchvision's ``maskrcnn_resnet50_fpn``; with ``freeze_norm=True`` on a ``resnet50``, ``state_dict()`` has
        the same names.
    """
    backbone, rest = _build(MaskRCNN, model, num_classes, kwargs, _TWO_STAGE_STRIDE)
    rest.setdefault("mask_roi_pool", backbone.mask_roi_pool())
    return MaskRCNN(backbone, num_classes, **_add_regions(backbone, rest, anchor_sizes, aspect_ratios))


def keypoint_rcnn(
    model: nn.Module, num_classes: int = 2, *, anchor_sizes: Any = None, aspect_ratios: Any = None, **kwargs: Any
) -> KeypointRCNN:
    """Build Keypoint R-CNN on a model.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 16, 2, 2))
        >>> detector = keypoint_rcnn(model, num_keypoints=5)
        >>> detector.roi_heads.keypoint_roi_pool.featmap_names, detector.backbone.strides
        (['0', '1'], [4, 8, 16])

    Args:
        model: any module that takes images ``(N, C, H, W)``, see ``fxfeat.fpn_backbone``; or what that returned.
        num_classes: how many classes there are, the background included.
        anchor_sizes: as ``sizes`` of ``FPNBackbone.anchor_generator``.
        aspect_ratios: as for ``FPNBackbone.anchor_generator``.
        kwargs: those of ``fxfeat.fpn_backbone``, and all others those of ``torchvision.models.detection.KeypointRCNN``,
            such as ``num_keypoints``, as for ``faster_rcnn``.

    Raises:
        RequestError: for what ``fxfeat.fpn_backbone`` refuses, for keyword arguments that neither side knows, and for
            anchors of another number of levels.
        TraceError: for a model that has no levels or cannot be recorded.

    Source: torchvision's ``keypointrcnn_resnet50_fpn``.
    """
    backbone, rest = _build(KeypointRCNN, model, num_classes, kwargs, _TWO_STAGE_STRIDE)
    rest.setdefault("keypoint_roi_pool", backbone.keypoint_roi_pool())
    return KeypointRCNN(backbone, num_classes, **_add_regions(backbone, rest, anchor_sizes, aspect_ratios))


def retinanet(
    model: nn.Module, num_classes: int, *, anchor_sizes: Any = None, aspect_ratios: Any = None, **kwargs: Any
) -> RetinaNet:
    """Build RetinaNet on a model, by default on levels of strides 8 to 32 and two more.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 16, 2, 2))
        >>> detector = retinanet(model, 3)
        >>> detector.backbone.strides, detector.anchor_generator.sizes[0]
        ([8, 16, 32], (32, 40, 50))

    Args:
        model: any module that takes images ``(N, C, H, W)``, see ``fxfeat.fpn_backbone``; or what that returned.
        num_classes: how many classes there are, the background included.
        anchor_sizes: as ``sizes`` of ``FPNBackbone.anchor_generator``; three for each level if not given.
        aspect_ratios: as for ``FPNBackbone.anchor_generator``.
        kwargs: those of ``fxfeat.fpn_backbone`` (``extra_blocks`` is ``"p6p7"`` if not given), and all others those of
            ``torchvision.models.detection.RetinaNet``. ``anchor_generator``, ``size_divisible`` and ``fixed_size``
            follow from the backbone if not given.

    Raises:
        RequestError: for what ``fxfeat.fpn_backbone`` refuses, for keyword arguments that neither side knows, and for
            anchors of another number of levels.
        TraceError: for a model that has no levels or cannot be recorded.

    Source: torchvision's ``retinanet_resnet50_fpn``.
    """
    backbone, rest = _build(RetinaNet, model, num_classes, kwargs, _ONE_STAGE_STRIDE, "p6p7")
    usual = [tuple(int(4 * side_of(stride) * octave) for octave in _RETINA_OCTAVES) for stride in backbone.strides]
    anchors = _choose_anchors(backbone, rest.pop("anchor_generator", None), anchor_sizes, aspect_ratios, usual)
    return RetinaNet(backbone, num_classes, anchor_generator=anchors, **rest)


def fcos(model: nn.Module, num_classes: int, *, anchor_sizes: Any = None, **kwargs: Any) -> FCOS:
    """Build FCOS on a model, by default on levels of strides 8 to 32 and two more.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 16, 2, 2))
        >>> fcos(model, 3).anchor_generator.sizes
        ((8,), (16,), (32,))

    Args:
        model: any module that takes images ``(N, C, H, W)``, see ``fxfeat.fpn_backbone``; or what that returned.
        num_classes: how many classes there are, the background included.
        anchor_sizes: one size for each level, in pixels; its stride if not given. FCOS has one square anchor a place.
        kwargs: those of ``fxfeat.fpn_backbone`` (``extra_blocks`` is ``"p6p7"`` if not given), and all others those of
            ``torchvision.models.detection.FCOS``. ``anchor_generator``, ``size_divisible`` and ``fixed_size`` follow
            from the backbone if not given.

    Raises:
        RequestError: for what ``fxfeat.fpn_backbone`` refuses, for keyword arguments that neither side knows, and for
            anchors of another number of levels.
        TraceError: for a model that has no levels or cannot be recorded.

    Source: torchvision's ``fcos_resnet50_fpn``.
    """
    backbone, rest = _build(FCOS, model, num_classes, kwargs, _ONE_STAGE_STRIDE, "p6p7")
    given = rest.pop("anchor_generator", None)
    usual = [round(side_of(stride)) for stride in backbone.strides]
    anchors = _choose_anchors(backbone, given, anchor_sizes, None, usual, (1.0,))
    return FCOS(backbone, num_classes, anchor_generator=anchors, **rest)


def _build(
    detector: type[nn.Module],
    model: nn.Module,
    num_classes: Any,
    kwargs: dict[str, Any],
    least_stride: int,
    extra_blocks: str = "pool",
) -> tuple[FPNBackbone, dict[str, Any]]:
    """Build the backbone from the arguments that are for it; return the others with what follows from the backbone."""
    check_keywords(detector, kwargs, _FOR_BACKBONE)
    check_classes(num_classes)
    own = {name: value for name, value in kwargs.items() if name in _FOR_BACKBONE}
    rest = {name: value for name, value in kwargs.items() if name not in _FOR_BACKBONE}
    if not isinstance(model, FPNBackbone):
        backbone = build_backbone(
            model, own.pop("out_indices", None), least_stride, **{"extra_blocks": extra_blocks, **own}
        )
    elif own:
        raise RequestError(f"The model is a backbone already; pass {', '.join(own)} to fpn_backbone instead.")
    else:
        backbone = model
    return backbone, {**_find_sizing(backbone), **rest}


def _find_sizing(backbone: FPNBackbone) -> dict[str, Any]:
    """Say how images are to be resized and padded, so that each level's grid covers them exactly."""
    own = backbone.strides[: len(backbone.strides) - backbone.levels.extra]
    divisor = math.lcm(*(step for steps in (backbone.size_divisibility, *own) for step in split_axes(steps)))
    if backbone.fixed_size is None:
        return {"size_divisible": divisor}
    height, width = (math.ceil(side / divisor) * divisor for side in backbone.fixed_size)
    return {"size_divisible": divisor, "fixed_size": (width, height)}


def _add_regions(backbone: FPNBackbone, rest: dict[str, Any], anchor_sizes: Any, aspect_ratios: Any) -> dict[str, Any]:
    given = rest.pop("rpn_anchor_generator", None)
    anchors = _choose_anchors(backbone, given, anchor_sizes, aspect_ratios, None)
    return {"box_roi_pool": backbone.box_roi_pool(), **rest, "rpn_anchor_generator": anchors}


def _choose_anchors(
    backbone: FPNBackbone,
    given: AnchorGenerator | None,
    sizes: Any,
    ratios: Any,
    usual: Any,
    usual_ratios: tuple[float, ...] = _RATIOS,
) -> AnchorGenerator:
    """Take the user's anchors, or make some of the sizes asked for, or else of the usual ones."""
    if given is None:
        chosen = usual if sizes is None else sizes
        return make_anchors(backbone.strides, chosen, usual_ratios if ratios is None else ratios)
    if sizes is not None or ratios is not None:
        name = "anchor_sizes" if sizes is not None else "aspect_ratios"
        raise RequestError(f"Pass {name}= or an anchor generator of your own, not both.")
    return check_anchors(given, backbone.strides)
