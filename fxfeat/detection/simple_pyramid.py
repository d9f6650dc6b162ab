"""The simple feature pyramid: all levels from the one map that a flat model gives."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torchvision.ops import Conv2dNormActivation
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

NormLayer = Callable[[int], nn.Module]


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each place of a map ``(N, C, H, W)``.

    Example:
        >>> ChannelNorm(8)(torch.rand(2, 8, 5, 5)).shape
        torch.Size([2, 8, 5, 5])
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise each place."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SimpleFeaturePyramid(nn.Module):
    """Maps of several resolutions from one map, by deconvolutions and pooling.

    Example:
        >>> fpn = SimpleFeaturePyramid(384, 256, stride=16, strides=(4, 8, 16, 32))
        >>> [tuple(level.shape) for level in fpn(torch.rand(1, 384, 14, 14)).values()]
        [(1, 256, 56, 56), (1, 256, 28, 28), (1, 256, 14, 14), (1, 256, 7, 7)]

    Args:
        in_channels: of the map.
        out_channels: of each level.
        stride: of the map, in pixels; a power of two.
        strides: of the levels, finest first; powers of two.
        extra_blocks: adds levels, as in ``torchvision.ops.FeaturePyramidNetwork``.
        norm_layer: makes a norm for a number of channels; layer norm over channels if not given, as in the paper.

    Source: Li et al. 2022, "Exploring Plain Vision Transformer Backbones for Object Detection", arXiv 2203.16527.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        strides: Sequence[int],
        extra_blocks: ExtraFPNBlock | None = None,
        norm_layer: NormLayer | None = None,
    ) -> None:
        super().__init__()
        norm = norm_layer or ChannelNorm
        self.scale_blocks = nn.ModuleList(_make_scaling(in_channels, stride / wanted, norm) for wanted in strides)
        widths = [_count_channels(in_channels, stride / wanted) for wanted in strides]
        self.inner_blocks = nn.ModuleList(_make_conv(width, out_channels, 1, norm) for width in widths)
        self.layer_blocks = nn.ModuleList(_make_conv(out_channels, out_channels, 3, norm) for _ in strides)
        self.extra_blocks = extra_blocks

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the levels.

        Args:
            x: the map, of shape ``(N, in_channels, H, W)``.

        Returns:
            Maps by the names ``"0"``, ``"1"``, ..., finest first, then those of the extra blocks.
        """
        scaled = [block(x) for block in self.scale_blocks]
        pairs = zip(self.inner_blocks, self.layer_blocks, scaled, strict=True)
        levels = [layer(inner(level)) for inner, layer, level in pairs]
        names = [str(index) for index in range(len(levels))]
        if self.extra_blocks is not None:
            levels, names = self.extra_blocks(levels, scaled, names)
        return OrderedDict(zip(names, levels, strict=True))


def _make_scaling(channels: int, factor: float, norm: NormLayer) -> nn.Sequential:
    """Make what enlarges a map by a factor, a power of two, halving its channels at each of the first two steps."""
    steps = round(math.log2(factor))
    layers: list[nn.Module] = [nn.MaxPool2d(2, 2, ceil_mode=True) for _ in range(-steps)]
    for step in range(steps):
        before, after = _count_channels(channels, 2**step), _count_channels(channels, 2 ** (step + 1))
        layers += [norm(before), nn.GELU()] if step else []
        layers += [nn.ConvTranspose2d(before, after, 2, 2)]
    return nn.Sequential(*layers)


def _count_channels(channels: int, factor: float) -> int:
    return max(1, channels // min(4, max(1, round(factor))))


def _make_conv(before: int, after: int, kernel_size: int, norm: NormLayer) -> nn.Module:
    return Conv2dNormActivation(before, after, kernel_size, norm_layer=norm, activation_layer=None)
