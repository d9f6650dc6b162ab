"""Measure the levels that a feature pyramid network returns."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fxfeat.detection.fpn import Levels

_PLACES = 64


def measure_levels(fpn: nn.Module, maps: Any, strides: Sequence[int]) -> Levels:
    """Run a network of levels on maps without data to learn the names and strides of what it returns.

    Args:
        fpn: returns maps by name; it is not changed.
        maps: what it takes, on the device ``meta``.
        strides: of the levels that are not extra, in pixels.
    """
    bare = copy.deepcopy(fpn).to("meta").eval()
    with torch.no_grad():
        levels: dict[str, torch.Tensor] = bare(maps)
    grids = [level.shape[-1] for level in levels.values()]
    last = len(strides) - 1
    measured = [*strides, *(round(strides[last] * grids[last] / grid) for grid in grids[last + 1 :])]
    return Levels(tuple(levels), tuple(measured), len(levels) - len(strides))


def make_maps(channels: Sequence[int], strides: Sequence[int]) -> dict[str, torch.Tensor]:
    """Make maps without data, of the sizes that some strides give."""
    sides = [round(_PLACES * strides[-1] / stride) for stride in strides]
    pairs = enumerate(zip(channels, sides, strict=True))
    return {str(index): torch.empty(1, width, side, side, device="meta") for index, (width, side) in pairs}
