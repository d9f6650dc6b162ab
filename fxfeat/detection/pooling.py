"""Pooling of regions from the levels of a backbone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from fxfeat.errors import RequestError
from fxfeat.vision.reduction import Reduction

_CANONICAL_SIZE = 224
_CANONICAL_STRIDE = 16


def make_roi_pool(names: Sequence[str], strides: Sequence[Reduction], output_size: int) -> MultiScaleRoIAlign:
    """Make a pooling of regions from levels of known strides.

    Left to itself, ``MultiScaleRoIAlign`` takes the strides from the first images that it sees and rounds them to
    powers of two, and takes each level to have twice the stride of the one before.

    Example:
        >>> make_roi_pool(["0", "1"], [4, 8], 7).scales
        [0.25, 0.125]

    Args:
        names: of the levels.
        strides: of the levels, in pixels.
        output_size: height and width of what is pooled.

    Raises:
        RequestError: where a step down and a step to the right differ, which ``roi_align`` has no setting for.
    """
    sides = [stride for stride in strides if isinstance(stride, int)]
    if len(sides) < len(strides):
        raise RequestError(
            f"Regions are pooled from maps with one stride for height and width; those of this backbone are "
            f"{list(strides)}. Choose others with out_indices=, or build a detector that pools none, such as retinanet."
        )
    return _make_pool(names, sides, output_size)


def _make_pool(names: Sequence[str], strides: Sequence[int], output_size: int) -> MultiScaleRoIAlign:
    pool = MultiScaleRoIAlign(list(names), output_size, sampling_ratio=2)
    pool.scales = [1 / stride for stride in strides]
    powers = [math.log2(strides[0]) + index for index in range(len(strides))]
    if powers[0].is_integer() and [2**power for power in powers] == list(strides):
        pool.map_levels = initLevelMapper(int(powers[0]), int(powers[-1]))
    else:
        pool.map_levels = StrideMapper(tuple(strides))
    return pool


class StrideMapper:
    """Choose a level for each box, for levels whose strides are not each twice the one before.

    It is the one with the greatest stride for which a box of 224 pixels comes from stride 16, one of 448 from 32.

    Example:
        >>> boxes = [torch.tensor([[0.0, 0, 20, 20], [0, 0, 100, 100], [0, 0, 900, 900]])]
        >>> StrideMapper((3, 9, 27))(boxes)
        tensor([0, 0, 2])

    Args:
        strides: of the levels, in pixels, finest first.

    Source: equation 1 of Lin et al. 2017, "Feature Pyramid Networks for Object Detection", arXiv 1612.03144.
    """

    def __init__(self, strides: tuple[int, ...]) -> None:
        self.strides = strides

    def __call__(self, boxes: list[torch.Tensor]) -> torch.Tensor:
        """Return the index of a level for each box ``(x1, y1, x2, y2)``, in pixels."""
        every = torch.cat(boxes)
        side = ((every[:, 2] - every[:, 0]) * (every[:, 3] - every[:, 1])).sqrt()
        wanted = side * (_CANONICAL_STRIDE / _CANONICAL_SIZE)
        # Equal strides: the first of them takes the boxes, as in torchvision.
        coarser = sorted(set(self.strides[1:]) - {self.strides[0]})
        bounds = torch.tensor(coarser, dtype=side.dtype, device=side.device)
        first = torch.tensor([self.strides.index(stride) for stride in (self.strides[0], *coarser)], device=side.device)
        return first[torch.bucketize(wanted * (1 + 1e-6), bounds, right=True)]
