"""A model with a feature pyramid on top, as detectors want their backbone."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from fxfeat.detection.anchors import make_anchors
from fxfeat.detection.fit import count_places, crop, pad, resize, widen
from fxfeat.detection.fitting_sizes import Sizes
from fxfeat.detection.pooling import make_roi_pool
from fxfeat.detection.simple_pyramid import SimpleFeaturePyramid
from fxfeat.pyramid import FeaturePyramid
from fxfeat.vision.reduction import Reduction


@dataclass(frozen=True)
class Levels:
    """The levels that a backbone returns.

    Attributes:
        names: the keys of what is returned, such as ``("0", "1", "pool")``.
        strides: how many pixels of the image one step on each level's grid is; a pair where height and width differ.
        extra: how many of them, the last, are made from the others.
    """

    names: tuple[str, ...]
    strides: tuple[Reduction, ...]
    extra: int = 0


@dataclass(frozen=True)
class Patches:
    """How the map of a flat model lies over the image.

    Attributes:
        size: how many pixels of the model's own input one place of the map is.
        stride: how many pixels of the image it is to be; a power of two. The image is resized by size / stride.
    """

    size: int
    stride: int


class FPNBackbone(nn.Module):
    """A model's feature maps, merged top down into maps of one width, as ``fpn_backbone`` makes it.

    Attributes:
        body: computes the model's maps, finest first.
        fpn: merges them.
        out_channels: the width of each map that is returned.
        size_divisibility: images are padded inside until height and width are multiples of it; 1 where none are, and a
            pair where height and width differ.
        fixed_size: the one height and width that the model takes; other images are resized inside, and the maps back.
        least_size: images are padded inside until height and width are at least this; 1 where none are.

    Source: the interface of torchvision's ``BackboneWithFPN``.
    """

    body: FeaturePyramid
    fpn: FeaturePyramidNetwork | SimpleFeaturePyramid

    def __init__(
        self,
        body: FeaturePyramid,
        fpn: FeaturePyramidNetwork | SimpleFeaturePyramid,
        out_channels: int,
        levels: Levels,
        sizes: Sizes,
        patches: Patches | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.fpn = fpn
        self.out_channels = out_channels
        self.levels = levels
        self.size_divisibility = sizes.divisor
        self.fixed_size = sizes.fixed
        self.least_size = sizes.least
        self.patches = patches

    @property
    def strides(self) -> list[Reduction]:
        """How many pixels of the image one step on each level's grid is, extra levels included.

        One number, or a pair where a step down and a step to the right differ.
        """
        return list(self.levels.strides)

    @property
    def num_levels(self) -> int:
        """How many maps are returned, extra levels included."""
        return len(self.levels.names)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the levels.

        Args:
            x: images of shape ``(N, C, H, W)``.

        Returns:
            Maps of shape ``(N, out_channels, H / stride, W / stride)`` by name, finest first.
        """
        size = (x.shape[-2], x.shape[-1])
        image = pad(x, self.size_divisibility, self.least_size)
        levels = self._merge(self._compute_maps(image), (image.shape[-2], image.shape[-1]))
        if image is x:
            return levels
        pairs = zip(levels.items(), self.levels.strides, strict=True)
        return OrderedDict((name, crop(level, count_places(size, stride))) for (name, level), stride in pairs)

    def _compute_maps(self, image: torch.Tensor) -> list[torch.Tensor]:
        size = self.fixed_size
        if size is None and self.patches is not None:
            height, width = count_places((image.shape[-2], image.shape[-1]), self.patches.stride)
            size = height * self.patches.size, width * self.patches.size
        maps: list[torch.Tensor] = self.body(image if size is None else resize(image, size))
        return maps

    def _merge(self, maps: list[torch.Tensor], size: tuple[int, int]) -> dict[str, torch.Tensor]:
        levels: dict[str, torch.Tensor]
        if self.patches is not None:
            levels = self.fpn(resize(maps[-1], count_places(size, self.patches.stride)))
            return levels
        fit = widen if self.fixed_size is None else resize
        pairs = zip(maps, self.levels.strides, strict=False)
        maps = [fit(level, count_places(size, stride)) for level, stride in pairs]
        levels = self.fpn(OrderedDict((str(index), level) for index, level in enumerate(maps)))
        return levels

    def anchor_generator(self, sizes: Any = None, aspect_ratios: Any = (0.5, 1.0, 2.0)) -> AnchorGenerator:
        """Make anchors for all levels, extra ones included.

        Args:
            sizes: one size in pixels, or a tuple of sizes, for each level; 8 times its stride if not given.
            aspect_ratios: height over width, the same for all levels, or a tuple for each level.

        Raises:
            RequestError: where these do not fit the number of levels.
        """
        return make_anchors(self.strides, sizes, aspect_ratios)

    def box_roi_pool(self, output_size: int = 7) -> MultiScaleRoIAlign:
        """Make the pooling of regions for boxes, from all levels but extra ones."""
        return self._make_pool(output_size)

    def mask_roi_pool(self, output_size: int = 14) -> MultiScaleRoIAlign:
        """Make the pooling of regions for masks, from all levels but extra ones."""
        return self._make_pool(output_size)

    def keypoint_roi_pool(self, output_size: int = 14) -> MultiScaleRoIAlign:
        """Make the pooling of regions for keypoints, from all levels but extra ones."""
        return self._make_pool(output_size)

    def _make_pool(self, output_size: int) -> MultiScaleRoIAlign:
        count = self.num_levels - self.levels.extra
        return make_roi_pool(self.levels.names[:count], self.levels.strides[:count], output_size)

    def extra_repr(self) -> str:
        """Say what is returned."""
        shown = f"out_channels={self.out_channels}, strides={self.strides}"
        if self.size_divisibility != 1:
            shown += f", size_divisibility={self.size_divisibility}"
        if self.least_size > 1:
            shown += f", least_size={self.least_size}"
        return shown if self.fixed_size is None else f"{shown}, fixed_size={self.fixed_size}"
