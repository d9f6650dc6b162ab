"""Build a detector's backbone from a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork

from fxfeat.detection.body import Body, Request, find_body
from fxfeat.detection.copies import freeze_parameters
from fxfeat.detection.extra_blocks import make_extra_blocks
from fxfeat.detection.fitting_sizes import Sizes, find_sizes
from fxfeat.detection.fpn import FPNBackbone, Patches
from fxfeat.detection.frozen_norms import freeze_norms
from fxfeat.detection.measure_levels import make_maps, measure_levels
from fxfeat.detection.simple_pyramid import SimpleFeaturePyramid
from fxfeat.errors import RequestError
from fxfeat.ir.engine import Engine
from fxfeat.pyramid.features_only import read_output_stride
from fxfeat.vision.integers import read_int
from fxfeat.vision.reduction import coarsest

_FLAT_STRIDES = (4, 8, 16, 32)


def fpn_backbone(
    model: nn.Module,
    out_indices: int | Sequence[int] | None = None,
    *,
    out_channels: int = 256,
    extra_blocks: Any = "pool",
    norm_layer: Callable[..., nn.Module] | None = None,
    freeze_norm: bool = False,
    trainable_levels: int | None = None,
    output_stride: int | None = None,
    example_inputs: Any = None,
    engine: Engine = "auto",
) -> FPNBackbone:
    """Turn a model into the backbone of a detector: its feature maps with a feature pyramid network on top.

    Example:
        >>> import torchvision
        >>> backbone = fpn_backbone(torchvision.models.resnet18(), example_inputs=torch.rand(1, 3, 64, 64))
        >>> {name: tuple(level.shape) for name, level in backbone(torch.rand(1, 3, 64, 96)).items()}
        {'0': (1, 256, 16, 24), '1': (1, 256, 8, 12), '2': (1, 256, 4, 6), '3': (1, 256, 2, 3), 'pool': (1, 256, 1, 2)}
        >>> backbone.strides
        [4, 8, 16, 32, 64]

    Args:
        model: any module that takes an image ``(N, C, H, W)``; it is not changed. The backbone shares its parameters,
            except those that it freezes: these are parameters of their own over the same memory.
        out_indices: the levels of ``features_only`` to use: an int for the last n, or indices. By default those of
            strides 4 to 32. For a model that works at one resolution, such as a vision transformer, the one block
            whose map to use; by default the last, after the final norm.
        out_channels: the width of each map that is returned.
        extra_blocks: what makes levels beyond those of the model: ``"pool"`` (every second place of the last level),
            ``"p6p7"`` (two strided convolutions), None, or an ``ExtraFPNBlock``.
        norm_layer: makes a norm for a number of channels, after each convolution of the pyramid.
        freeze_norm: use ``FrozenBatchNorm2d`` with the same numbers in place of every batch norm of the model.
        trainable_levels: how many of the model's levels to train, counted from the last one used; all before these is
            frozen. None or a number as great as there are levels (the stem is one if ``features_only`` has a level
            before the first stage, as for ResNet) trains everything, 0 nothing.
        output_stride: the largest stride wanted of the model; strides past it become dilations.
        example_inputs: an image, or what else the model takes; worked out from the model if not given.
        engine: as for ``create_feature_extractor``.

    Returns:
        The backbone. It takes images of any size: where the model does not, it pads (``size_divisibility``,
        ``least_size``) or resizes (``fixed_size``) inside, and gives maps of the image's size all the same. Parameters
        that no map depends on are dropped, or frozen where they are inside a module that is called whole.

        The names in ``state_dict()`` are those of the model after ``body.`` and those of
        ``torchvision.ops.FeaturePyramidNetwork`` after ``fpn.``, as in torchvision's ``BackboneWithFPN``.

    Raises:
        RequestError: for levels that there are not, or maps that are not of two dimensions.
        TraceError: for a model that has no levels or cannot be recorded.

    Source: torchvision's ``resnet_fpn_backbone``; Li et al. 2022, arXiv 2203.16527, for models of one resolution.
    """
    return build_backbone(
        model,
        out_indices,
        _FLAT_STRIDES[0],
        out_channels=out_channels,
        extra_blocks=extra_blocks,
        norm_layer=norm_layer,
        freeze_norm=freeze_norm,
        trainable_levels=trainable_levels,
        output_stride=output_stride,
        example_inputs=example_inputs,
        engine=engine,
    )


def build_backbone(
    model: nn.Module,
    out_indices: int | Sequence[int] | None,
    least_stride: int,
    *,
    out_channels: int = 256,
    extra_blocks: Any = "pool",
    norm_layer: Callable[..., nn.Module] | None = None,
    freeze_norm: bool = False,
    trainable_levels: int | None = None,
    output_stride: int | None = None,
    example_inputs: Any = None,
    engine: Engine = "auto",
) -> FPNBackbone:
    """Do what ``fpn_backbone`` does, for levels of at least some stride by default."""
    width = read_int(out_channels)
    if width is None or width < 1:
        raise RequestError(f"out_channels is {out_channels!r}; it must be a positive int, such as 256.")
    if norm_layer is not None and (isinstance(norm_layer, nn.Module) or not callable(norm_layer)):
        raise RequestError(
            f"norm_layer is {norm_layer!r}; it must make a norm for a number of channels, such as torch.nn.BatchNorm2d."
        )
    extra = make_extra_blocks(extra_blocks, width)
    source = freeze_norms(model) if freeze_norm and isinstance(model, nn.Module) else model
    request = Request(out_indices, least_stride, trainable_levels, read_output_stride(output_stride), engine)
    body = find_body(source, request, example_inputs)
    top = _put_on_block if body.flat else _put_on_levels
    backbone = top(body, width, extra, norm_layer, least_stride)
    # The modes of the model's own modules are the user's.
    backbone.fpn.train(model.training)
    backbone.training = model.training
    return backbone


def _put_on_levels(body: Body, out_channels: int, extra: Any, norm_layer: Any, least_stride: int) -> FPNBackbone:
    """Put a feature pyramid network on the levels of a model."""
    channels = list(body.pyramid.channels)
    fpn = FeaturePyramidNetwork(channels, out_channels, extra, norm_layer)
    levels = measure_levels(fpn, make_maps(channels, body.strides), body.strides)
    sizes = _find_sizes(body)
    return FPNBackbone(freeze_parameters(body.pyramid, body.frozen), fpn, out_channels, levels, sizes)


def _put_on_block(body: Body, out_channels: int, extra: Any, norm_layer: Any, least_stride: int) -> FPNBackbone:
    """Put a simple feature pyramid on the one map of a flat model."""
    patch, channels = body.strides[-1], body.pyramid.channels[-1]
    if not isinstance(patch, int):
        raise RequestError(
            f"A pyramid on the one map of a flat model needs square patches; those of this model are {patch} pixels."
        )
    patches = Patches(patch, 2 ** round(math.log2(patch)))
    strides = [stride for stride in _FLAT_STRIDES if stride >= least_stride]
    fpn = SimpleFeaturePyramid(channels, out_channels, patches.stride, strides, extra, norm_layer)
    levels = measure_levels(fpn, torch.empty(1, channels, 64, 64, device="meta"), strides)
    own = _find_sizes(body)
    divisor = (
        math.lcm(coarsest(own.divisor) // patch * patches.stride, strides[-1]) if own.fixed is None else strides[-1]
    )
    least = math.ceil(own.least * patches.stride / patch) if own.least > 1 else 1
    sizes = Sizes(divisor, own.fixed, least)
    return FPNBackbone(freeze_parameters(body.pyramid, body.frozen), fpn, out_channels, levels, sizes, patches)


def _find_sizes(body: Body) -> Sizes:
    """Find out which image sizes the body takes; an order of places is known for one size alone."""
    if body.sorted:
        return Sizes(fixed=(body.image.shape[-2], body.image.shape[-1]))
    return find_sizes(body.pyramid, body.image, body.strides, body.flat)
