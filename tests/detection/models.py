"""Tiny models, each named for what is special about it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

IMAGE = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def conv(before: int, after: int, stride: int = 2, norm: type[nn.BatchNorm2d] = nn.BatchNorm2d) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), norm(after), nn.ReLU(inplace=True))


class Staged(nn.Module):
    """Strides 2, 4, 8, 16 and 32, and a head."""

    def __init__(self, norm: type[nn.BatchNorm2d] = nn.BatchNorm2d) -> None:
        super().__init__()
        widths = (8, 12, 16, 20, 24)
        self.stem = conv(3, widths[0], norm=norm)
        for index in range(1, 5):
            block = nn.Sequential(
                conv(widths[index - 1], widths[index], norm=norm), conv(widths[index], widths[index], 1)
            )
            self.add_module(f"stage{index}", block)
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, x):
        x = self.stage2(self.stage1(self.stem(x)))
        x = self.stage4(self.stage3(x))
        return self.head(x.mean((2, 3)))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x):
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(x)


class Flat(nn.Module):
    """A vision transformer; takes one size only, unless ``free``."""

    def __init__(self, patch: int = 16, side: int = 96, free: bool = False, width: int = 32) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        self.grid = side // patch
        self.free = free
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.mask_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, width, self.grid, self.grid))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(4)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.patch_embed(x)
        position = self.pos_embed
        if self.free:
            position = F.interpolate(position, size=x.shape[-2:], mode="bilinear")
        x = (x + position).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        return self.head(self.norm(self.blocks(x))[:, 0])


class Parallel(nn.Module):
    """Two resolutions side by side, added to each other: sides must be multiples of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8), conv(8, 8))
        self.high = conv(8, 8, 1)
        self.low = conv(8, 8)
        self.stage = conv(8, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        x = self.high(x) + F.interpolate(self.low(x), scale_factor=2.0)
        return self.head(self.stage(x).mean((2, 3)))


class Windows(nn.Module):
    """Windows of 7x7 places at stride 4: sides must be multiples of 28."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.mix = nn.Linear(49, 49)
        self.down = nn.Conv2d(8, 16, 3, 2, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // 7, 7, w // 7, 7).transpose(3, 4).flatten(4)
        x = self.mix(x).unflatten(4, (7, 7)).transpose(3, 4).reshape(n, c, h, w)
        return self.head(self.down(x).mean((2, 3)))


class Thirds(nn.Module):
    """Strides that are no powers of two: 3, 9 and 27."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, 3)
        self.b = nn.Conv2d(8, 12, 3, 3)
        self.c = nn.Conv2d(12, 16, 3, 3)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.c(self.b(self.a(x).relu()).relu()).relu().mean((2, 3)))
