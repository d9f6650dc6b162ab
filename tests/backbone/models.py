"""Tiny models, each with a head that some rule could get wrong."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

IMAGE = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Conv(nn.Module):
    """conv - norm - ReLU - mean - linear, with an activation that works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU())
        self.stage1 = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.stage2 = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8))
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.stage2(self.stage1(self.stem(x))))
        return self.fc(self.drop(x.mean((2, 3))))


class Flattened(nn.Module):
    """A map flattened into several linear layers; the batch is read from the input."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).view(x.size(0), -1))


class ConvClassifier(nn.Module):
    """A 1x1 convolution makes scores at each position, which are pooled afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(8, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.flatten(self.classifier(self.features(x)), 1)


class Gated(nn.Module):
    """Global pooling inside, which gates a map and is no head's; the head norms what it pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.gate = nn.Conv2d(8, 8, 1)
        self.norm = nn.LayerNorm(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        x = x * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(x, 1)))
        return self.fc(self.norm(F.adaptive_avg_pool2d(x, 1).flatten(1)))


class Block(nn.Module):
    """A residual block of attention and an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(x)


class Tokens(nn.Module):
    """A small vision transformer with a class token and a final norm."""

    def __init__(self, depth: int = 3, classes: int = 5) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        self.pos = nn.Parameter(torch.randn(1, 17, 8))
        self.blocks = nn.Sequential(*(Block(8) for _ in range(depth)))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, classes)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos
        return self.norm(self.blocks(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(x)[:, 0])


class PatchMean(Tokens):
    """The mean of the patches alone, normed behind the pooling too."""

    def __init__(self) -> None:
        super().__init__()
        self.fc_norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.fc_norm(self.embed(x)[:, 1:].mean(1)))


class TwoHeads(Tokens):
    """Two classifiers on two tokens, whose scores are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dist = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        return (self.head(x[:, 0]) + self.head_dist(x[:, 1])) / 2


class AttentionPool(nn.Module):
    """A learnt query gathers up the tokens; keys and values are linear layers over all positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, width))
        self.kv = nn.Linear(width, 2 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, places, width = x.shape
        key, value = self.kv(x).reshape(rows, places, 2, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
        query = self.query.expand(rows, -1, -1).reshape(rows, 1, 2, width // 2).transpose(1, 2)
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(rows, width)


class Gathered(Tokens):
    """Attention pooling in place of a class token's."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = AttentionPool(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.embed(x)))


class NormLinear(nn.Module):
    """A classifier with a norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(8)
        self.linear = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.bn(x))


class Normed(Conv):
    """Conv with a classifier that norms its input."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = NormLinear()


class WideHead(nn.Module):
    """A head whose own module widens the map at each position before it pools."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 16, 1)
        self.norm = nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


class Widened(Conv):
    """Conv with a head of one module."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = WideHead()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.act(self.stage2(self.stage1(self.stem(x)))))


class Overwriting(Conv):
    """A head that overwrites the map it has pooled."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.stage2(self.stage1(self.stem(x))))
        pooled = x.mean((2, 3))
        x.zero_()
        return self.fc(pooled)


class Named(Conv):
    """A result with names, as transformers gives it."""

    def forward(self, pixel_values: torch.Tensor, other: Any = None) -> Any:
        x = self.act(self.stage2(self.stage1(self.stem(pixel_values))))
        pooled = x.mean((2, 3))
        return OrderedDict(hidden=x, pooled=pooled, logits=self.fc(pooled))


class Auxiliary(Conv):
    """A second result in train mode."""

    def forward(self, x: torch.Tensor) -> Any:
        x = self.stage1(self.stem(x))
        early = x.mean((2, 3))
        scores = self.fc(self.drop(self.act(self.stage2(x)).mean((2, 3))))
        return (scores, early) if self.training else scores


class TwoBranches(nn.Module):
    """Two branches with a classifier each, of other widths."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 6, 3)
        self.right = nn.Conv2d(3, 4, 3, 2)
        self.heads = nn.ModuleList([nn.Linear(6, 5), nn.Linear(4, 5)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = (self.left(x), self.right(x))
        return torch.stack([head(held.mean((2, 3))) for head, held in zip(self.heads, maps, strict=True)]).mean(0)


class Patchified(nn.Module):
    """Downsampling by convolutions that step as far as they reach, down to a map of one position."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 8, 8)
        self.second = nn.Conv2d(4, 8, 2, 2)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.second(self.first(x)).mean((2, 3)))


class WholeMap(nn.Module):
    """A convolution as large as the map, in place of flattening it; pooling makes it work on larger images too."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3, 4, 1)
        self.fc1 = nn.Conv2d(4, 12, 4)
        self.fc2 = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.fc1(self.features(x)).relu().mean((2, 3)))


class Functional(nn.Module):
    """A classifier without a module: a weight and a temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.weight = nn.Parameter(torch.randn(5, 8))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).relu().mean((2, 3))
        return self.scale * F.linear(F.normalize(x), F.normalize(self.weight))
