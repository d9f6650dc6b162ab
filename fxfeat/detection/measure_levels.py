"""Measure the levels that a feature pyramid network returns."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fxfeat.detection.fpn import Levels
from fxfeat.vision.reduction import Reduction, join_axes, split_axes

_PLACES = 64


def measure_levels(fpn: nn.Module, maps: Any, strides: Sequence[Reduction]) -> Levels:
    """Run a network of levels on maps without data to learn the names and strides of what it returns.

    Args:
        fpn: returns maps by name; it is not changed.
        maps: what it takes, on the device ``meta``.
        strides: of the levels that are not extra, in pixels.
    """
    bare = copy.deepcopy(fpn).to("meta").eval()
    with torch.no_grad():
        levels: dict[str, torch.Tensor] = bare(maps)
    grids = [tuple(level.shape[-2:]) for level in levels.values()]
    last = len(strides) - 1
    measured = [*strides, *(_measure(strides[last], grids[last], grid) for grid in grids[last + 1 :])]
    return Levels(tuple(levels), tuple(measured), len(levels) - len(strides))


def _measure(stride: Reduction, grid: tuple[int, ...], smaller: tuple[int, ...]) -> Reduction:
    axes = zip(split_axes(stride), grid, smaller, strict=True)
    return join_axes([round(step * before / after) for step, before, after in axes])


def make_maps(channels: Sequence[int], strides: Sequence[Reduction]) -> dict[str, torch.Tensor]:
    """Make maps without data, of the sizes that some strides give."""
    coarse = split_axes(strides[-1])
    grids = [[round(_PLACES * last / step) for last, step in zip(coarse, split_axes(s), strict=True)] for s in strides]
    pairs = enumerate(zip(channels, grids, strict=True))
    return {str(index): torch.empty(1, width, *grid, device="meta") for index, (width, grid) in pairs}
