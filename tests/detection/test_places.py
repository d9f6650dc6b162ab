"""Models that keep their tokens in another order than the image's rows give maps all the same."""

from __future__ import annotations

import torch
from torch import nn

import fxfeat

SIDE = 64


def image(*size):
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))


class Mix(nn.Module):
    """Attention within groups of four tokens, and a residual."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x):
        n, length, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, 4, length // 4, 3, width).permute(3, 0, 2, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return x + mixed.transpose(1, 2).reshape(n, length, width)


class Unrolled(nn.Module):
    """Sorts its tokens so that the four of a pooling window are far apart, as Hiera does."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.stage1 = nn.Sequential(Mix(8), Mix(8))
        self.wider = nn.Linear(8, 16)
        self.stage2 = nn.Sequential(Mix(16), Mix(16))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.embed(x).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        x = x.view(n, 8, 2, 8, 2, c).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        x = x.view(4 * n, 4, 2, 4, 2, c).permute(0, 2, 4, 1, 3, 5).reshape(n, h * w, c)
        x = self.stage1(x)
        x = self.wider(x).view(n, 4, -1, 16).amax(1)
        return self.head(self.stage2(x).mean(1))


def rolled(tokens, side):
    """Put tokens back into rows, written by hand: one step per split."""
    n, length, c = tokens.shape
    if length == 256:
        x = tokens.view(n, 2, 2, 2, 2, 4, 4, c).permute(0, 5, 3, 1, 6, 4, 2, 7)
    else:
        x = tokens.view(n, 2, 2, 4, 4, c).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(n, side, side, c).permute(0, 3, 1, 2).contiguous()


def test_maps_are_in_the_images_order():
    model = Unrolled().eval()
    backbone = fxfeat.fpn_backbone(model, example_inputs=image(SIDE, SIDE), trainable_levels=1).eval()
    assert (backbone.strides, backbone.fixed_size) == ([4, 8, 16], (SIDE, SIDE))
    x = image(SIDE, SIDE)
    assert backbone.body.feature_info.module_name() == ["wider", "stage2"]
    tokens = fxfeat.create_feature_extractor(model, ["wider", "stage2"])(x)
    maps = {"0": rolled(tokens["wider"], 16), "1": rolled(tokens["stage2"], 8)}
    wanted = backbone.fpn(maps)
    assert all(torch.equal(level, wanted[name]) for name, level in backbone(x).items())
    found = [tuple(level.shape[-2:]) for level in backbone(image(50, 90)).values()]
    assert found == [(13, 23), (7, 12), (4, 6)]


def test_the_order_needs_no_tensor_of_its_own():
    backbone = fxfeat.fpn_backbone(Unrolled(), example_inputs=image(SIDE, SIDE))
    assert not list(backbone.body.buffers())


class Sorted(Unrolled):
    """Sorts its tokens by an order that is no reshaping."""

    def __init__(self):
        super().__init__()
        self.register_buffer("order", torch.randperm(256, generator=torch.Generator().manual_seed(0)))

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        n, length, c = x.shape
        x = x.view(n, 16, 8, 2, c).transpose(1, 2).reshape(n, length, c)[:, self.order]
        x = self.stage1(x)
        x = self.wider(x).view(n, 4, -1, 16).amax(1)
        return self.head(self.stage2(x).mean(1))


def test_an_order_that_is_a_buffer_is_followed():
    model = Sorted().eval()
    pyramid = fxfeat.features_only(model, example_inputs=image(SIDE, SIDE))
    # Pooled over four places that have nothing to do with each other, the rest makes no map.
    assert pyramid.feature_info.module_name() == ["stage1.0", "stage1.1"]
    tokens = fxfeat.create_feature_extractor(model, ["stage1"])(image(SIDE, SIDE))["stage1"]
    turned = torch.empty_like(tokens)
    turned[:, model.order] = tokens
    rows = turned.view(2, 8, 16, 2, 8).transpose(1, 2).reshape(2, 16, 16, 8).permute(0, 3, 1, 2)
    assert torch.equal(pyramid(image(SIDE, SIDE))[-1], rows)
