"""Where levels end: before looks at smaller copies, decoders, necks and scores, and inside a body with one drop."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.pyramid.test_levels import conv, levels_of

IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
WIDTHS = (8, 16, 24, 32)


class Reduced(nn.Module):
    """Attention to fewer keys and values."""

    def __init__(self, channels, ratio, kind):
        super().__init__()
        self.norm, self.q, self.kind, self.ratio = nn.LayerNorm(channels), nn.Linear(channels, channels), kind, ratio
        self.k, self.v = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.few = nn.Conv2d(channels, channels, ratio, ratio)
        self.mha = nn.MultiheadAttention(channels, 2, batch_first=True)

    def forward(self, x, h, w):
        y = self.norm(x)
        few = y.transpose(1, 2).unflatten(2, (h, w))
        few = F.avg_pool2d(few, self.ratio) if self.kind == "pooled" else self.few(few)
        few = few.flatten(2).transpose(1, 2)
        if self.kind == "layer":
            return x + self.mha(y, few, few)[0]
        if self.kind == "by hand":
            return x + (self.q(y) @ self.k(few).transpose(1, 2)).softmax(-1) @ self.v(few)
        k, v = self.kv(few).chunk(2, -1)
        return x + F.scaled_dot_product_attention(self.q(y), k, v)


class Former(nn.Module):
    """Four stages of attention to fewer keys, and a decoder that brings all to the first resolution."""

    def __init__(self, kind="joined", ratios=(8, 4, 2, 1), blocks=1):
        super().__init__()
        steps = zip((3, *WIDTHS), WIDTHS, (4, 2, 2, 2), strict=False)
        self.patches = nn.ModuleList([nn.Conv2d(before, after, step, step) for before, after, step in steps])
        self.stages = nn.ModuleList(
            nn.ModuleList(Reduced(width, ratio, kind) for _ in range(blocks))
            for width, ratio in zip(WIDTHS, ratios, strict=True)
        )
        self.linears = nn.ModuleList([nn.Linear(width, 16) for width in WIDTHS])
        self.out = nn.Conv2d(64, 5, 1)

    def forward(self, x):
        maps = []
        for patch, stage in zip(self.patches, self.stages, strict=True):
            x = patch(x)
            h, w = x.shape[2:]
            tokens = x.flatten(2).transpose(1, 2)
            for block in stage:
                tokens = block(tokens, h, w)
            x = tokens.transpose(1, 2).unflatten(2, (h, w)).contiguous()
            maps.append(x)
        sums = [
            linear(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])
            for linear, x in zip(self.linears, maps, strict=True)
        ]
        return self.out(torch.cat([F.interpolate(x, size=maps[0].shape[2:]) for x in sums], 1))


@pytest.mark.parametrize("kind", ["joined", "by hand", "layer", "pooled"])
@pytest.mark.parametrize("size", [64, 128])
def test_reduced_keys_are_no_level(kind, size):
    levels = levels_of(Former(kind), torch.rand(1, 3, size, size))
    assert [level[:2] for level in levels] == [(4, 8), (8, 16), (16, 24), (32, 32)]


@pytest.mark.parametrize(("ratios", "blocks"), [((8, 4, 2, 1), 2), ((2, 2, 2, 2), 1), ((8, 4, 2, 2), 2)])
def test_reduced_keys_in_every_stage(ratios, blocks):
    levels = levels_of(Former("joined", ratios, blocks), torch.rand(1, 3, 128, 128))
    assert [level[:2] for level in levels] == [(4, 8), (8, 16), (16, 24), (32, 32)]


class Stages(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (
            nn.Sequential(conv(before, after, 3, 2), nn.ReLU()) for before, after in ((3, 8), (8, 16), (16, 32))
        )


class Scores(Stages):
    def __init__(self, classes=5, finish=None):
        super().__init__()
        self.classifier = nn.Conv2d(32, classes, 1)
        self.finish = finish or (lambda y, x: F.interpolate(y, size=x.shape[2:]))

    def forward(self, x):
        return self.finish(self.classifier(self.c(self.b(self.a(x)))), x)


FINISHES = {
    "enlarged": None,
    "as it is": lambda y, x: y,
    "pooled": lambda y, x: y.mean((2, 3)),
    "bounded": lambda y, x: F.interpolate(y, scale_factor=8).softmax(1),
}


@pytest.mark.parametrize("finish", FINISHES)
@pytest.mark.parametrize("classes", [5, 40])
def test_scores_are_no_level(finish, classes):
    assert levels_of(Scores(classes, FINISHES[finish]), IMAGE) == [(2, 8, "a"), (4, 16, "b"), (8, 32, "c")]


class Neck(Stages):
    """A feature pyramid network in the model's own code."""

    def __init__(self, width=4):
        super().__init__()
        self.top, self.side = nn.Conv2d(32, width, 1), nn.Conv2d(16, width, 1)

    def forward(self, x):
        b = self.b(self.a(x))
        top = self.top(self.c(b))
        return top, self.side(b) + F.interpolate(top, scale_factor=2)


class NeckFirst(Neck):
    def forward(self, x):
        b = self.b(self.a(x))
        side, top = self.side(b), self.top(self.c(b))
        return {"0": side + F.interpolate(top, size=side.shape[2:]), "1": F.relu(top)}


class NeckList(Stages):
    def __init__(self):
        super().__init__()
        self.sides = nn.ModuleList([nn.Conv2d(width, 64, 1) for width in (8, 16, 32)])

    def forward(self, x):
        a = self.a(x)
        b = self.b(a)
        maps = [side(value) for side, value in zip(self.sides, (a, b, self.c(b)), strict=True)]
        b = maps[1] + F.interpolate(maps[2], scale_factor=2)
        return maps[0] + F.interpolate(b, scale_factor=2), b, maps[2]


@pytest.mark.parametrize("kind", [Neck, NeckFirst, NeckList])
def test_a_neck_is_no_level(kind):
    assert levels_of(kind(), IMAGE) == [(2, 8, "a"), (4, 16, "b"), (8, 32, "c")]


def layer(before, after, stride=1):
    return nn.Sequential(conv(before, after, 3, stride), nn.ReLU())


class Bodied(nn.Module):
    def __init__(self, *body):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 4, 4), nn.Sequential(*body)

    def forward(self, x):
        return self.body(self.stem(x)).mean((2, 3))


BODIES = {
    "as long": (layer(8, 12), layer(12, 16), layer(16, 24, 2), layer(24, 24)),
    "longer after": (layer(8, 12), layer(12, 16), layer(16, 24, 2), *(layer(24, 24) for _ in range(4))),
    "longer before": (*(layer(8, 8) for _ in range(3)), layer(8, 16), layer(16, 24, 2)),
    "stages": (nn.Sequential(layer(8, 8), layer(8, 16)), nn.Sequential(layer(16, 24, 2), layer(24, 24))),
}


@pytest.mark.parametrize("body", BODIES)
def test_a_body_with_one_drop_has_a_level_before_it(body):
    assert [level[:2] for level in levels_of(Bodied(*BODIES[body]), IMAGE)] == [(4, 16), (8, 24)]


class Normed(nn.Module):
    """Stages of tokens in a list, each with its reduction at its end, and a norm after the last."""

    def __init__(self, norm, before, after):
        super().__init__()
        self.layers = nn.ModuleList([conv(3, 8, 4, 4), layer(8, 16, 2), layer(16, 32, 2), layer(32, 32)])
        self.norm, self.before, self.after, self.head = norm, before, after, nn.Linear(32, 4)

    def forward(self, x):
        for stage in self.layers:
            x = stage(x)
        return self.head(self.after(self.norm(self.before(x))).mean((2, 3)))


NORMS = {
    "of tokens": (nn.LayerNorm(32), lambda x: x.permute(0, 2, 3, 1), lambda x: x.permute(0, 3, 1, 2)),
    "of groups": (nn.GroupNorm(4, 32), lambda x: x, lambda x: x),
}


@pytest.mark.parametrize("kind", NORMS)
def test_the_final_norm_is_no_level(kind):
    model = Normed(*NORMS[kind]).eval()
    assert levels_of(model, IMAGE) == [(4, 8, "layers.0"), (8, 16, "layers.1"), (16, 32, "layers.3")]


class Segments(Stages):
    """Scores by a head of several layers, of the last map or of several looks at it."""

    def __init__(self, looks, narrow):
        super().__init__()
        self.looks = nn.ModuleList([nn.Conv2d(32, 4, 3, 1, rate, rate) for rate in range(1, 1 + looks)])
        width = 32 + 4 * looks
        self.head = nn.Conv2d(width, 3, 1)
        if narrow:
            self.head = nn.Sequential(conv(width, 8), nn.ReLU(), nn.Dropout(), nn.Conv2d(8, 3, 1))

    def forward(self, x):
        y = self.c(self.b(self.a(x)))
        y = torch.cat([y, *(look(y) for look in self.looks)], 1) if self.looks else y
        return F.interpolate(self.head(y), x.shape[2:])


@pytest.mark.parametrize("looks", [0, 2])
@pytest.mark.parametrize("narrow", [False, True])
def test_a_score_head_of_several_layers_is_no_level(looks, narrow):
    assert levels_of(Segments(looks, narrow), IMAGE) == [(2, 8, "a"), (4, 16, "b"), (8, 32, "c")]
