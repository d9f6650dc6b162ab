"""What a block gives where its caller adds the residual."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxfeat

IMAGE = torch.rand(1, 3, 64, 32, generator=torch.Generator().manual_seed(0))
WIDTH = 16


class Mix(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v))


def feed():
    return nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))


class Alternating(nn.Module):
    """Two lists of branches, added in turn."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.norm, self.head = nn.Conv2d(3, WIDTH, 8, 8), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2)
        self.mixes, self.feeds = nn.ModuleList(Mix() for _ in "1234"), nn.ModuleList(feed() for _ in "1234")
        self.gains = nn.Parameter(torch.rand(4))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in "1234")

    def step(self, index, x):
        x = x + self.mixes[index](x)
        return x + self.feeds[index](x)

    def start(self, x):
        return self.patch(x).flatten(2).transpose(1, 2)

    def forward(self, x):
        x = self.start(x)
        for index in range(4):
            x = self.step(index, x)
        return self.head(self.norm(x).mean(1))


class WideMixes(Alternating):
    """The heavier of the two branches comes first."""

    def __init__(self):
        super().__init__()
        self.feeds = nn.ModuleList(nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)) for _ in "1234")


class OneBranch(Alternating):
    def step(self, index, x):
        return self.mixes[index](x) + x


class SideBySide(Alternating):
    def step(self, index, x):
        return x + self.mixes[index](x) + self.feeds[index](x)


class Scaled(Alternating):
    def step(self, index, x):
        x = torch.add(x, self.gains[index] * self.mixes[index](x))
        return x + self.gains[index] * self.feeds[index](x)


class NormAfter(Alternating):
    def step(self, index, x):
        return self.norms[index](x + self.feeds[index](x))


class InPlace(Alternating):
    def step(self, index, x):
        x = x.clone()
        x += self.feeds[index](x)
        return x


class WithToken(Alternating):
    def start(self, x):
        x = super().start(x)
        return torch.cat([self.gains.view(1, 1, 4).repeat(len(x), 1, 4), x], 1)


def sums_of(model):
    """Return what is there after each of four steps, as maps of the places; a token may stand before these."""
    x, sums = model.start(IMAGE), []
    for index in range(4):
        x = model.step(index, x)
        sums.append(x[:, -32:].transpose(1, 2).reshape(1, WIDTH, 8, 4))
    return sums


@pytest.mark.parametrize("kind", [Alternating, WideMixes, OneBranch, SideBySide, Scaled, NormAfter, InPlace, WithToken])
def test_the_sum_is_the_level(kind):
    model = kind().eval()
    pyramid = fxfeat.features_only(model, 4, example_inputs=IMAGE)
    with torch.no_grad():
        assert all(map(torch.equal, pyramid(IMAGE), sums_of(model)))
    assert pyramid.feature_info.reduction() == [8] * 4


class Stages(nn.Module):
    """A model of stages whose blocks are added by the model."""

    def __init__(self):
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 16, 2, 2)
        self.first = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU()) for _ in "12")
        self.second = nn.ModuleList(nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU()) for _ in "12")

    def forward(self, x):
        x = self.stem(x)
        for block in self.first:
            x = x + block(x)
        x = self.down(x)
        for block in self.second:
            x = x + block(x)
        return x.mean((2, 3))


def test_the_sum_ends_a_stage():
    info = fxfeat.features_only(Stages().eval(), example_inputs=IMAGE).feature_info
    assert info.module_name() == ["add_1", "add_3"]


class Listed(Alternating):
    """Pairs of branches in a list of lists, all of one class, which the stem is of as well."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Sequential(nn.Linear(192, WIDTH), nn.LayerNorm(WIDTH))
        self.pairs = nn.ModuleList(self.pair() for _ in "1234")

    def pair(self):
        return nn.ModuleList([feed(), feed()])

    def start(self, x):
        x = x.reshape(len(x), 3, 8, 8, 4, 8).permute(0, 2, 4, 3, 5, 1)
        return self.patch(x.reshape(len(x), 32, 192))

    def step(self, index, x):
        x = self.pairs[index][0](x) + x
        return self.pairs[index][1](x) + x


class Named(Listed):
    def pair(self):
        return nn.ModuleDict({"first": feed(), "second": feed()})

    def step(self, index, x):
        x = self.pairs[index]["first"](x) + x
        return self.pairs[index]["second"](x) + x


@pytest.mark.parametrize("kind", [Listed, Named])
def test_two_branches_in_one_container_are_one_block(kind):
    model = kind().eval()
    pyramid = fxfeat.features_only(model, 4, example_inputs=IMAGE)
    with torch.no_grad():
        assert all(map(torch.equal, pyramid(IMAGE), sums_of(model)))
    assert pyramid.feature_info.get("why")[0] == (
        f"block 1 of 4: {type(model.pairs[0]).__name__}, repeated at one resolution"
    )
