"""Which maps are levels: those of the encoder, of each block and of each stage."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxfeat
from tests.pyramid.test_levels import Block, conv, levels_of

IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class Down(nn.Module):
    def __init__(self, before, after, lowers=True):
        super().__init__()
        self.blocks = nn.ModuleList([Block(before, after), Block(after, after)])
        self.down = conv(after, after, 3, 2) if lowers else None

    def forward(self, x):
        skips = []
        for block in self.blocks:
            x = block(x)
            skips.append(x)
        if self.down is None:
            return x, skips
        x = self.down(x)
        return x, [*skips, x]


class Up(nn.Module):
    def __init__(self, before, skips, after, rises=True):
        super().__init__()
        inputs = [before, *[after] * (len(skips) - 1)]
        self.blocks = nn.ModuleList(Block(a + b, after) for a, b in zip(inputs, skips, strict=True))
        self.up = conv(after, after) if rises else None

    def forward(self, x, skips):
        for block in self.blocks:
            x = block(torch.cat([x, skips.pop()], 1))
        return x if self.up is None else self.up(F.interpolate(x, scale_factor=2.0))


class Denoiser(nn.Module):
    """A U whose blocks on the way up work at the lowest resolution first, with skips to it."""

    def __init__(self):
        super().__init__()
        self.first, self.downs = conv(3, 8), nn.ModuleList([Down(8, 8), Down(8, 16), Down(16, 16, False)])
        self.mid = nn.Sequential(Block(16, 16), Block(16, 16))
        skips = [16, 16, 16], [16, 16, 8], [8, 8, 8]
        self.ups = nn.ModuleList(Up(*given) for given in zip((16, 16, 8), skips, (16, 8, 8), (1, 1, 0), strict=True))
        self.last = conv(8, 3)

    def forward(self, x):
        x = self.first(x)
        skips = [x]
        for down in self.downs:
            x, more = down(x)
            skips += more
        x = self.mid(x)
        for up in self.ups:
            x = up(x, skips)
        return self.last(x)


def test_blocks_of_a_decoder_are_no_bottom():
    assert levels_of(Denoiser()) == [(1, 8, "downs.0.blocks.1"), (2, 16, "downs.1.blocks.1"), (4, 16, "mid")]


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.stages = conv(3, 8, 3, 2), nn.ModuleList([Block(8, 8), Block(8, 16, 2), Block(16, 32, 2)])

    def forward(self, x):
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Merging(nn.Module):
    """A feature pyramid network with two levels of its own."""

    def __init__(self):
        super().__init__()
        self.inner = nn.ModuleList(conv(width, 8, 1) for width in (8, 16, 32))
        self.outer, self.p6, self.p7 = nn.ModuleList(conv(8, 8) for _ in "123"), conv(32, 8, 3, 2), conv(8, 8, 3, 2)

    def forward(self, maps):
        maps, last = [inner(x) for inner, x in zip(self.inner, maps, strict=True)], maps[-1]
        for index in (1, 0):
            maps[index] = maps[index] + F.interpolate(maps[index + 1], scale_factor=2.0)
        p6 = self.p6(last)
        return [*(outer(x) for outer, x in zip(self.outer, maps, strict=True)), p6, self.p7(F.relu(p6))]


class Detector(nn.Module):
    """One head for all levels, whose results are one list or one tensor."""

    def __init__(self, joins):
        super().__init__()
        self.body, self.merge, self.joins = Body(), Merging(), joins
        self.head = nn.Sequential(conv(8, 8), nn.ReLU(), conv(8, 9))

    def forward(self, x):
        maps = [self.head(level) for level in self.merge(self.body(x))]
        return torch.cat([level.flatten(2).transpose(1, 2) for level in maps], 1) if self.joins else maps


@pytest.mark.parametrize("joins", [True, False])
def test_levels_of_a_feature_pyramid_network_and_its_heads_are_none(joins):
    names = [name for _, _, name in levels_of(Detector(joins))]
    assert names == ["body.stages.0", "body.stages.1", "body.stages.2"]


class Shots(nn.Module):
    """Goes on down for its detections, with a head of its own for each map."""

    def __init__(self):
        super().__init__()
        self.body = Body()
        self.extra = nn.ModuleList(nn.Sequential(conv(32, 16, 1), nn.ReLU(), conv(16, 32, 3, 2)) for _ in "12")
        self.heads = nn.ModuleList(conv(width, 6) for width in (8, 16, 32, 32, 32))

    def forward(self, x):
        maps = self.body(x)
        for extra in self.extra:
            maps.append(extra(maps[-1]))
        return torch.cat([head(level).flatten(2) for head, level in zip(self.heads, maps, strict=True)], 2)


def test_heads_on_each_map_are_no_levels():
    assert [name for _, _, name in levels_of(Shots())] == [
        *("body.stages.0", "body.stages.1", "body.stages.2", "extra.0", "extra.1")
    ]


class Segmenter(nn.Module):
    """An encoder and a decoder in modules of their own."""

    def __init__(self):
        super().__init__()
        self.encoder, self.up = Body(), nn.ModuleList([conv(48, 16), conv(24, 8)])

    def forward(self, x):
        maps = self.encoder(x)
        x = maps.pop()
        for up in self.up:
            x = up(torch.cat([F.interpolate(x, scale_factor=2.0), maps.pop()], 1))
        return F.interpolate(x, scale_factor=2.0)


def test_an_encoder_with_a_decoder():
    names = [name for _, _, name in levels_of(Segmenter())]
    assert names == ["encoder.stages.0", "encoder.stages.1", "encoder.stages.2"]


@pytest.mark.parametrize("kind", [Denoiser, Segmenter, lambda: Detector(True)])
def test_the_encoder_alone_has_its_stride_limited(kind):
    info = fxfeat.features_only(kind().eval(), output_stride=2, example_inputs=IMAGE).feature_info
    assert info.reduction()[-1] == 2


class Windowed(nn.Module):
    """A block that looks at windows of its map, or at all of it."""

    def __init__(self, window):
        super().__init__()
        self.window, self.qkv = window, nn.Linear(16, 48)

    def forward(self, x):
        n, h, w, c = x.shape
        size = self.window or h
        y = x.view(n, h // size, size, w // size, size, c).transpose(2, 3).reshape(-1, size * size, c)
        y = F.scaled_dot_product_attention(*self.qkv(y).chunk(3, -1))
        return x + y.view(n, h // size, w // size, size, size, c).transpose(2, 3).reshape(n, h, w, c)


class Global(Windowed):
    pass


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 8, 8)
        self.blocks = nn.Sequential(*(Global(0) if index % 3 == 2 else Windowed(4) for index in range(6)))

    def forward(self, x):
        return self.blocks(self.patch(x).permute(0, 2, 3, 1)).mean((1, 2))


def test_blocks_of_two_classes_are_all_listed():
    assert [name for _, _, name in levels_of(Plain())] == [f"blocks.{index}" for index in range(6)]


class Dilated(nn.Module):
    """Stages of two blocks, the last two of which are dilated in place of a stride."""

    def __init__(self, rates=(1, 2, 4), growth=2):
        super().__init__()
        self.stem = conv(3, 8, 3, 2)
        self.stages = nn.ModuleList()
        for index, rate in enumerate(rates):
            first, before = Block(8 * growth**index, 8 * growth ** (index + 1), 1 if index else 2), max(1, rate // 2)
            second = Block(8 * growth ** (index + 1), 8 * growth ** (index + 1))
            layers = (first.conv1, first.conv2, second.conv1, second.conv2)
            for layer, dilation in zip(layers, (before, rate, rate, rate), strict=True):
                layer.dilation = layer.padding = (dilation, dilation)
            self.stages.append(nn.Sequential(first, second))

    def forward(self, x):
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x.mean((2, 3))


def test_each_stage_of_a_dilated_network_keeps_its_level():
    assert levels_of(Dilated()) == [(2, 8, "stem"), (4, 16, "stages.0"), (4, 32, "stages.1"), (4, 64, "stages.2")]
    assert fxfeat.features_only(Dilated().eval(), example_inputs=IMAGE).feature_info[2]["why"] == (
        "goes into stages.2, a stage that is dilated in place of a stride"
    )


def test_stages_of_one_dilation_are_one_level():
    assert levels_of(Dilated((1, 1, 1))) == [(2, 8, "stem"), (4, 64, "stages.2")]


def test_dilation_for_context_is_no_stage():
    rates = [nn.Sequential(conv(16, 16), nn.ReLU()) for _ in "123"]
    for rate, layer in zip((2, 4, 8), rates, strict=True):
        layer[0].dilation = layer[0].padding = (rate, rate)
    model = nn.Sequential(conv(3, 8, 3, 2), Block(8, 16, 2), nn.Sequential(*rates), nn.AdaptiveAvgPool2d(1))
    assert [reduction for reduction, _, _ in levels_of(model)] == [2, 4]


class Levels(nn.Sequential):
    def __init__(self):
        super().__init__(conv(3, 8, 3, 2), nn.ReLU(), conv(8, 16, 3, 2), nn.ReLU(), conv(16, 32, 3, (2, 1)), nn.ReLU())


@pytest.mark.parametrize(
    ("strides", "reductions"),
    [((2, 4), [2, 4]), ([4, 2], [4, 2]), (4, [4]), (((8, 4),), [(8, 4)]), (range(2, 3), [2]), ([(4, 4)], [4])],
)
def test_levels_by_stride(strides, reductions):
    pyramid = fxfeat.features_only(Levels().eval(), strides=strides, example_inputs=IMAGE)
    assert pyramid.feature_info.reduction() == reductions


def test_the_last_level_of_a_stride_is_taken():
    assert fxfeat.features_only(Dilated().eval(), strides=(4,), example_inputs=IMAGE).feature_info.channels() == [64]


LISTED = "The model has 3 levels: 0 (1, reduction 2), 1 (3, reduction 4), 2 (5, reduction (8, 4))."


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"strides": (2, 8)}, f"strides is (2, 8), but no level has a reduction of 8. {LISTED}"),
        ({"strides": ()}, f"strides is (), but it names none. {LISTED}"),
        ({"strides": "4"}, "strides is '4'; it must be one or several reductions, as in (4, 8, 16, 32)."),
        ({"strides": 2.5}, "strides is 2.5; it must be one or several reductions, as in (4, 8, 16, 32)."),
        ({"strides": 4, "out_indices": (1,)}, "Pass out_indices= or strides=, not both: each chooses the levels."),
    ],
)
def test_strides_that_there_are_not(asked, message):
    with pytest.raises(fxfeat.RequestError) as caught:
        fxfeat.features_only(Levels().eval(), example_inputs=IMAGE, **asked)
    assert str(caught.value) == message


class OneStep(nn.Module):
    """A decoder that goes up one step alone."""

    def __init__(self):
        super().__init__()
        widths = ((3, 4), (4, 8), (8, 16), (16, 32))
        self.e = nn.ModuleList(nn.Conv2d(before, after, 3, 2, 1) for before, after in widths)
        self.d = nn.Conv2d(48, 8, 3, 1, 1)

    def forward(self, x):
        maps = []
        for stage in self.e:
            x = stage(x).relu()
            maps.append(x)
        return self.d(torch.cat([F.interpolate(x, scale_factor=2), maps[2]], 1))


@pytest.mark.parametrize("output_stride", [None, 8, 4])
def test_a_decoder_of_one_step_is_none_of_the_encoder(output_stride):
    info = fxfeat.features_only(
        OneStep().eval(), output_stride=output_stride, example_inputs=torch.rand(1, 3, 64, 64)
    ).feature_info
    assert info.channels() == [4, 8, 16, 32]
    assert info.reduction() == [min(output_stride or 16, 2**step) for step in range(1, 5)]


class TwoHeads(nn.Module):
    """Two resolutions, whose heads' results are joined as rows."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 16, 3, 2, 1)
        self.heads = nn.ModuleList([nn.Conv2d(8, 12, 1), nn.Conv2d(16, 12, 1)])

    def forward(self, x):
        a = self.a(x)
        b = self.b(a)
        return torch.cat([head(y).flatten(2) for head, y in zip(self.heads, (a, b), strict=True)], 2)


def test_a_resolution_that_never_comes_back_is_a_level():
    assert levels_of(TwoHeads()) == [(4, 8, "a"), (8, 16, "b")]


class Collapsing(nn.Module):
    """A volume whose frames are averaged."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv3d(3, 4, 3, (1, 2, 2), 1), nn.Conv2d(4, 8, 3, 2, 1), nn.Linear(8, 2)

    def forward(self, x):
        return self.fc(self.b(self.a(x).mean(2)).mean((2, 3)))


def test_a_reason_without_tokens_where_there_are_none():
    with pytest.raises(fxfeat.TraceError) as caught:
        fxfeat.features_only(Collapsing().eval(), example_inputs=torch.rand(1, 3, 8, 64, 64))
    assert str(caught.value) == (
        "Collapsing has no levels. Its only map is a, the first layer's; where what mean gives of it lies on the image "
        "cannot be followed. To take values by name, use fxfeat.create_feature_extractor."
    )
