"""Tiny modules, each a trap for what limits a stride."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, **settings) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, **settings)


class Chain(nn.Module):
    """Five convolutions, the odd ones strided."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 4, stride=2), conv(4, 4, stride=2)
        self.c, self.d, self.e = conv(4, 4), conv(4, 4, 5, stride=2), conv(4, 4)

    def forward(self, x):
        return self.e(self.d(self.c(self.b(self.a(x)))).relu())


class Shortcut(nn.Module):
    """A block whose shortcut averages before its 1x1 convolution."""

    def __init__(self, channels: int = 4):
        super().__init__()
        self.conv1, self.conv2 = conv(channels, channels, stride=2), conv(channels, channels)
        self.pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
        self.project = conv(channels, channels, 1)

    def forward(self, x):
        return (self.conv2(self.conv1(x).relu()) + self.project(self.pool(x))).relu()


class Smoothed(nn.Module):
    """A block that averages behind its convolution, in place of a stride there."""

    def __init__(self, channels: int = 4):
        super().__init__()
        self.conv1, self.conv2 = conv(channels, channels), conv(channels, channels)
        self.smooth = nn.AvgPool2d(3, 2, 1)
        self.project = conv(channels, channels, 1, stride=2)

    def forward(self, x):
        return (self.conv2(self.smooth(self.conv1(x).relu())) + self.project(x)).relu()


class Blur(nn.Module):
    """A fixed depthwise filter, with settings of its own for the stride and the padding, but not for a dilation."""

    def __init__(self, channels: int, stride: int = 2):
        super().__init__()
        self.stride, self.padding, self.channels = stride, [1, 1, 1, 1], channels
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("filter", (row[:, None] * row).expand(channels, 1, 3, 3).clone(), persistent=False)

    def forward(self, x):
        return F.conv2d(F.pad(x, self.padding), self.filter, stride=self.stride, groups=self.channels)


class BlurredBlock(nn.Module):
    def __init__(self, channels: int = 4):
        super().__init__()
        self.conv1, self.blur, self.project = conv(channels, channels), Blur(channels), conv(channels, channels, 1, 2)

    def forward(self, x):
        return self.blur(self.conv1(x).relu()) + self.project(x)


class SameConv2d(nn.Conv2d):
    """Padding worked out from the size of the image, as TensorFlow does it."""

    def forward(self, x):
        amounts = []
        for size, kernel, stride, dilation in zip(
            x.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True
        ):
            total = max((math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
            amounts = [total // 2, total - total // 2, *amounts]
        return F.conv2d(F.pad(x, amounts), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Standardised(nn.Conv2d):
    """A convolution whose forward calls the function with the settings of the layer."""

    def forward(self, x):
        weight = self.weight / self.weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Functional(nn.Module):
    """Pools by functions, with numbers written in the code."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 4), conv(4, 4), conv(4, 4)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        x = F.max_pool2d(self.a(x).relu(), 2)
        x = F.max_pool2d(self.b(x).relu(), 3, 2, 1)
        return self.c(F.avg_pool2d(x, 2))


class Sliced(nn.Module):
    """Takes every second position, with a weight of its own in the code."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 4, stride=2), conv(4, 4)

    def forward(self, x):
        x = self.a(x)
        return self.b(x[:, :, ::2, ::2]).relu()


class Holder(nn.Module):
    """Calls a block, and something after it."""

    def __init__(self, *blocks: nn.Module):
        super().__init__()
        self.stem = conv(3, 4, stride=2)
        self.blocks = nn.Sequential(*blocks)
        self.last = conv(4, 4)

    def forward(self, x):
        return self.last(self.blocks(self.stem(x)))


class Gated(nn.Module):
    """Squeeze-and-excite."""

    def __init__(self, channels: int = 4):
        super().__init__()
        self.conv, self.gate = conv(channels, channels, stride=2), nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        x = self.conv(x)
        return x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()


class Merging(nn.Module):
    """Patch merging: four shifted slices become channels."""

    def __init__(self, channels: int = 4):
        super().__init__()
        self.reduce = nn.Conv2d(4 * channels, channels, 1)

    def forward(self, x):
        parts = [x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return self.reduce(torch.cat(parts, 1))


class Placed(nn.Module):
    """Adds a learned value to each of 4x4 positions."""

    def __init__(self, channels: int = 4, size: int = 4):
        super().__init__()
        self.where = nn.Parameter(torch.rand(1, channels, size, size))

    def forward(self, x):
        return x + self.where


class Windowed(nn.Module):
    """Normalises within windows of 2x2 positions."""

    def forward(self, x):
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // 2, 2, w // 2, 2)
        return (x - x.mean((3, 5), keepdim=True)).reshape(n, c, h, w)
