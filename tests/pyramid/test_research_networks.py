"""Levels of networks as research repositories write them, each by one trait that was read wrongly before."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxfeat


def block(given, made, stride=1, dilation=1):
    return nn.Sequential(nn.Conv2d(given, made, 3, stride, dilation, dilation), nn.BatchNorm2d(made), nn.ReLU())


def levels_of(model, *inputs):
    return fxfeat.features_only(model.eval(), example_inputs=inputs if len(inputs) > 1 else inputs[0]).feature_info


class OneAxisAfterTheOther(nn.Module):
    """Lowers the width, then the height, beside a shortcut that lowers both."""

    def __init__(self, given, made):
        super().__init__()
        self.across, self.along = (
            nn.Conv2d(given, made, (1, 3), (1, 2), (0, 1)),
            nn.Conv2d(made, made, (3, 1), (2, 1), (1, 0)),
        )
        self.shortcut = nn.Conv2d(given, made, 1, 2)

    def forward(self, x):
        return F.relu(self.along(F.relu(self.across(x))) + self.shortcut(x))


def test_reductions_along_one_axis_after_the_other_multiply():
    blocks = block(3, 8, 2), OneAxisAfterTheOther(8, 12), OneAxisAfterTheOther(12, 16)
    model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))
    assert levels_of(model, torch.rand(1, 3, 64, 64)).reduction() == [2, 4, 8]


class NormedStages(nn.Module):
    """Stages that end in a norm and a turn back to channels first, the last as well."""

    def __init__(self):
        super().__init__()
        widths = [3, 8, 12, 16]
        self.patches = nn.ModuleList(nn.Conv2d(i, o, 3, 2, 1) for i, o in itertools.pairwise(widths))
        self.works = nn.ModuleList(nn.Sequential(nn.LayerNorm(o), nn.Linear(o, o), nn.GELU()) for o in widths[1:])
        self.norms, self.head = nn.ModuleList(nn.LayerNorm(o) for o in widths[1:]), nn.Linear(16, 5)

    def run(self, x):
        maps = []
        for patch, work, norm in zip(self.patches, self.works, self.norms, strict=True):
            x = patch(x)
            batch, _, height, width = x.shape
            x = x.flatten(2).transpose(1, 2)
            x = norm(x + work(x)).reshape(batch, height, width, -1).permute(0, 3, 1, 2).contiguous()
            maps.append(x)
        return maps

    def forward(self, x):
        return self.head(self.run(x)[-1].mean((2, 3)))


def test_the_norm_at_the_end_of_every_stage_is_the_last_stages_too():
    model, x = NormedStages().eval(), torch.rand(2, 3, 32, 48)
    maps = fxfeat.features_only(model, example_inputs=x)(x)
    assert all(torch.equal(level, expected) for level, expected in zip(maps, model.run(x), strict=True))
    backbone = fxfeat.Backbone(model, example_inputs=x)
    assert torch.equal(backbone.forward_head(backbone.forward_features(x)), model(x))


class Hourglass(nn.Module):
    """Holds the next lower hourglass."""

    def __init__(self, depth, width):
        super().__init__()
        self.pool, self.beside, self.before = nn.MaxPool2d(2, 2), block(width, width), block(width, width)
        self.inner = Hourglass(depth - 1, width) if depth > 1 else block(width, width)

    def forward(self, x):
        return self.beside(x) + F.interpolate(self.inner(self.before(self.pool(x))), scale_factor=2)


def test_a_network_that_holds_itself_goes_down_to_its_innermost_part():
    model = nn.Sequential(block(3, 8, 2), block(8, 8, 2), Hourglass(2, 8), nn.Conv2d(8, 4, 1))
    info = levels_of(model, torch.rand(1, 3, 64, 64))
    assert info.reduction() == [2, 4, 8, 16]
    assert info.module_name() == ["0", "1", "2.before", "2.inner.inner"]


class Skipped(nn.Module):
    """A U-Net made of modules inside each other, each of which joins what it was given."""

    def __init__(self, given, made, inner=None):
        super().__init__()
        down, up = nn.Conv2d(given, made, 4, 2, 1), nn.ConvTranspose2d(made * (2 if inner else 1), given, 4, 2, 1)
        self.model = nn.Sequential(nn.LeakyReLU(0.2), down, *([inner] if inner else []), nn.ReLU(), up)

    def forward(self, x):
        return torch.cat([x, self.model(x)], 1)


def test_modules_inside_each_other_are_no_decoder():
    inner = Skipped(8, 16, Skipped(16, 24, Skipped(24, 32)))
    model = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), inner, nn.ReLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh())
    info = levels_of(model, torch.rand(1, 3, 64, 64))
    assert (info.channels(), info.reduction()) == ([8, 16, 24, 32], [2, 4, 8, 16])


class Timed(nn.Module):
    def __init__(self, given, made):
        super().__init__()
        self.conv, self.time = nn.Conv2d(given, made, 3, 1, 1), nn.Linear(4, made)

    def forward(self, x, time):
        return F.silu(self.conv(x)) + self.time(time)[:, :, None, None]


class Diffusion(nn.Module):
    """Joins what came down at the lowest resolution before it goes up from it."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList(
            [
                nn.ModuleList([Timed(3, 8), nn.Conv2d(8, 8, 3, 2, 1)]),
                nn.ModuleList([Timed(8, 16), nn.Conv2d(16, 16, 3, 2, 1)]),
                nn.ModuleList([Timed(16, 24), nn.Identity()]),
            ]
        )
        self.middle = Timed(24, 24)
        up = nn.Upsample(scale_factor=2)
        pairs = [(Timed(48, 16), up), (Timed(32, 8), up), (Timed(16, 8), nn.Identity())]
        self.up, self.out = nn.ModuleList(nn.ModuleList(pair) for pair in pairs), nn.Conv2d(8, 3, 3, 1, 1)

    def forward(self, x, time):
        kept = []
        for work, lower in self.down:
            x = work(x, time)
            kept.append(x)
            x = lower(x)
        x = self.middle(x, time)
        for work, raise_ in self.up:
            x = raise_(work(torch.cat([x, kept.pop()], 1), time))
        return self.out(x)


def test_a_decoder_begins_with_its_list_not_where_it_first_goes_up():
    info = levels_of(Diffusion(), torch.rand(2, 3, 32, 32), torch.rand(2, 4))
    assert info.module_name() == ["down.1.0", "middle"]


class Fusing(nn.Module):
    """Works on several resolutions side by side, and adds each to all."""

    def __init__(self, widths):
        super().__init__()
        self.works = nn.ModuleList(block(width, width) for width in widths)
        self.turns = nn.ModuleList(nn.ModuleList(nn.Conv2d(i, o, 1) for i in widths) for o in widths)

    def forward(self, maps):
        maps = [work(x) for work, x in zip(self.works, maps, strict=True)]
        sizes = [x.shape[2:] for x in maps]
        return [
            F.relu(sum(F.interpolate(turn(x), size) for turn, x in zip(turns, maps, strict=True)))
            for turns, size in zip(self.turns, sizes, strict=True)
        ]


class SideBySide(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.first = nn.Sequential(block(3, 8, 2), block(8, 8, 2)), block(8, 12, 2)
        self.fuse2, self.second, self.fuse3 = Fusing([8, 12]), block(12, 16, 2), Fusing([8, 12, 16])
        self.last = nn.Conv2d(36, 3, 1)

    def run(self, x):
        x = self.stem(x)
        maps = self.fuse2([x, self.first(x)])
        return self.fuse3([*maps, self.second(maps[-1])])

    def forward(self, x):
        maps = self.run(x)
        return self.last(torch.cat([F.interpolate(each, maps[0].shape[2:]) for each in maps], 1))


def test_levels_side_by_side_are_those_of_the_last_module():
    model, x = SideBySide().eval(), torch.rand(1, 3, 64, 64)
    pyramid = fxfeat.features_only(model, example_inputs=x)
    assert pyramid.feature_info.reduction() == [2, 4, 8, 16]
    assert all(torch.equal(level, expected) for level, expected in zip(pyramid(x)[1:], model.run(x), strict=True))


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) + x


class Mixes(nn.Module):
    def __init__(self):
        super().__init__()
        self.turn = nn.Linear(16, 48)

    def forward(self, x):
        return F.scaled_dot_product_attention(*self.turn(x).chunk(3, -1))


class PairedTransformer(nn.Module):
    """Keeps the two halves of a block in lists: of pairs, or in one list for each half."""

    def __init__(self, paired):
        super().__init__()
        attentions = [Residual(nn.Sequential(nn.LayerNorm(16), Mixes())) for _ in range(4)]
        layers = [Residual(nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16), nn.GELU())) for _ in range(4)]
        self.patches, self.head = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 3)
        self.pairs = nn.ModuleList(map(nn.ModuleList, zip(attentions, layers, strict=True))) if paired else None
        self.halves = None if paired else nn.ModuleList([nn.ModuleList(attentions), nn.ModuleList(layers)])

    def run(self, x):
        x = self.patches(x)
        grid, x, maps = x.shape[2:], x.flatten(2).transpose(1, 2), []
        for attention, layer in self.pairs if self.pairs is not None else zip(*self.halves, strict=True):
            x = layer(attention(x))
            maps.append(x.transpose(1, 2).unflatten(2, grid))
        return x, maps

    def forward(self, x):
        return self.head(self.run(x)[0].mean(1))


@pytest.mark.parametrize("paired", [True, False])
def test_half_blocks_are_no_levels(paired):
    model, x = PairedTransformer(paired).eval(), torch.rand(2, 3, 32, 48)
    maps = fxfeat.features_only(model, example_inputs=x)(x)
    assert all(torch.equal(level, expected) for level, expected in zip(maps, model.run(x)[1][-3:], strict=True))


class Basic(nn.Module):
    def __init__(self, given, made, stride=1):
        super().__init__()
        self.conv, self.shortcut = nn.Conv2d(given, made, 3, stride, 1), nn.Conv2d(given, made, 1, stride)

    def forward(self, x):
        return F.relu(self.conv(x) + self.shortcut(x))


class Dilated(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.layer1, self.layer2 = block(3, 8, 2), block(8, 8, 2), Basic(8, 12, 2)
        self.layer3 = nn.Sequential(Basic(12, 16), block(16, 16, dilation=2))
        self.layer4, self.head = nn.Sequential(Basic(16, 24), block(24, 24, dilation=4)), nn.Linear(24, 3)

    def forward(self, x):
        return self.head(self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x))))).mean((2, 3)))


def test_dilated_stages_follow_a_stage_of_one_block():
    info = levels_of(Dilated(), torch.rand(1, 3, 64, 64))
    assert info.module_name() == ["stem", "layer1", "layer2", "layer3", "layer4"]
    assert info.reduction() == [2, 4, 8, 8, 8]


@pytest.mark.parametrize(
    "tail", [[nn.Conv2d(24, 1, 1)], [nn.Conv2d(24, 1, 4, 1, 1)], [nn.Conv2d(24, 1, 3, 1, 1), nn.Sigmoid()]]
)
def test_scores_of_each_place_are_no_level(tail):
    model = nn.Sequential(block(3, 8, 2), block(8, 16, 2), block(16, 24, 2), *tail)
    assert levels_of(model, torch.rand(1, 3, 64, 64)).channels() == [8, 16, 24]


class NormsFrequencies(nn.Module):
    """Turns a spectrogram about for a norm over its frequencies, and back."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(16), nn.Linear(12, 4)
        self.blocks = nn.ModuleList([block(1, 8), block(8, 12)])

    def forward(self, x):
        x = self.norm(x.transpose(1, 3)).transpose(1, 3)
        for each in self.blocks:
            x = F.avg_pool2d(each(x), 2)
        return self.head(x.mean((2, 3)))


def test_a_map_that_is_turned_for_a_norm_and_back_is_one():
    assert levels_of(NormsFrequencies(), torch.rand(2, 1, 64, 16)).reduction() == [2, 4]


def test_strides_are_taken_from_a_tensor():
    model = nn.Sequential(block(3, 8, 2), block(8, 16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))
    pyramid = fxfeat.features_only(model.eval(), strides=torch.tensor([2, 4]), example_inputs=torch.rand(1, 3, 64, 64))
    assert pyramid.feature_info.reduction() == [2, 4]


class Enlarges(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(block(3, 8, 2), block(8, 16, 2), block(16, 24, 2)), nn.Linear(24, 3)

    def forward(self, x):
        return self.head(self.body(F.interpolate(x, scale_factor=2.0, mode="bilinear")).mean((2, 3)))


def test_an_image_that_is_enlarged_first_has_levels():
    pyramid = fxfeat.features_only(Enlarges().eval(), out_indices=(0, 1, 2), example_inputs=torch.rand(1, 3, 64, 64))
    assert pyramid.feature_info.reduction() == [1, 2, 4]


class Adds(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.work = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, groups=width), nn.GELU(), nn.Conv2d(width, width, 1))

    def forward(self, x):
        return x + self.work(x)


class LowersAfterABlock(nn.Module):
    """Goes down at its start, behind a residual block that is still of the resolution before."""

    def __init__(self, given, made, depth):
        super().__init__()
        self.down = nn.Sequential(Adds(given), nn.Conv2d(given, made, 3, 2, 1))
        self.blocks = nn.Sequential(*(Adds(made) for _ in range(depth)))

    def forward(self, x):
        return self.blocks(self.down(x))


def test_a_block_at_the_start_of_the_module_that_goes_down_is_none_of_the_stage_before():
    stages = nn.ModuleDict({"stem": nn.Conv2d(3, 8, 4, 4)})
    stages["first"] = nn.Sequential(Adds(8), Adds(8))
    stages["second"], stages["third"] = LowersAfterABlock(8, 12, 2), LowersAfterABlock(12, 16, 3)
    model = nn.Sequential(stages["stem"], stages["first"], stages["second"], stages["third"])
    model.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)])
    assert levels_of(model, torch.rand(1, 3, 64, 64)).module_name() == ["1", "2", "3"]


class OwnNorm(nn.LayerNorm):
    def forward(self, x):
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class NormedIfLast(nn.Module):
    """Norms its map of tokens, if it is the last stage."""

    def __init__(self, given, made, is_last):
        super().__init__()
        self.down, self.work = nn.Conv2d(given, made, 2, 2), Adds(made)
        self.norm = OwnNorm(made) if is_last else nn.Identity()

    def forward(self, x):
        x = self.work(self.down(x))
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def test_a_norm_inside_the_last_stage_of_a_list_is_its_own():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            widths = [3, 8, 12, 16]
            pairs = enumerate(itertools.pairwise(widths))
            self.stages = nn.Sequential(*(NormedIfLast(given, made, i == 2) for i, (given, made) in pairs))
            self.head = nn.Linear(16, 3)

        def forward(self, x):
            return self.head(self.stages(x).mean((2, 3)))

    assert levels_of(Net(), torch.rand(1, 3, 64, 64)).module_name() == ["stages.0", "stages.1", "stages.2"]


class HeadGoesDown(SideBySide):
    """Classifies by going down once more through what several resolutions side by side have come to."""

    def __init__(self):
        super().__init__()
        self.widen = nn.ModuleList(block(width, 20) for width in (8, 12, 16))
        self.downs, self.head = nn.ModuleList(block(20, 20, 2) for _ in range(2)), nn.Linear(20, 3)

    def forward(self, x):
        high, *lower = self.run(x)
        x = self.widen[0](high)
        for widen, down, low in zip(self.widen[1:], self.downs, lower, strict=True):
            x = widen(low) + down(x)
        return self.head(x.mean((2, 3)))


def test_a_head_that_goes_down_once_more_has_the_levels():
    pyramid = fxfeat.features_only(HeadGoesDown().eval(), example_inputs=torch.rand(1, 3, 64, 64))
    assert pyramid.feature_info.channels() == [8, 20, 20, 20]
    assert pyramid.feature_info.module_name()[1:] == ["widen.0", "add", "add_1"]


class Unpools(nn.Module):
    """Goes up by putting values back where they were the largest, as SegNet does."""

    def __init__(self, as_functions):
        super().__init__()
        self.as_functions = as_functions
        self.down = nn.ModuleList([block(3, 4), block(4, 8), block(8, 16)])
        self.pool, self.unpool = nn.MaxPool2d(2, 2, return_indices=True), nn.MaxUnpool2d(2, 2)
        self.up = nn.ModuleList([block(16, 8), block(8, 4), nn.Conv2d(4, 2, 3, 1, 1)])

    def forward(self, x):
        sizes, places = [], []
        for work in self.down:
            x = work(x)
            sizes.append(x.shape)
            x, place = F.max_pool2d(x, 2, 2, return_indices=True) if self.as_functions else self.pool(x)
            places.append(place)
        for work in self.up:
            size, place = sizes.pop(), places.pop()
            x = work(F.max_unpool2d(x, place, 2, 2, 0, size) if self.as_functions else self.unpool(x, place))
        return x


@pytest.mark.parametrize("as_functions", [False, True])
def test_what_unpools_is_a_decoder(as_functions):
    model, x = Unpools(as_functions).eval(), torch.rand(1, 3, 64, 64)
    pyramid = fxfeat.features_only(model, (0, 1, 2, 3), example_inputs=x)
    assert pyramid.feature_info.module_name()[:3] == ["down.0", "down.1", "down.2"]
    assert (pyramid.feature_info.reduction(), pyramid.feature_info.channels()) == ([1, 2, 4, 8], [4, 8, 16, 16])
    *_, third, last = pyramid(x)
    assert torch.equal(last, F.max_pool2d(third, 2))
    with pytest.raises(fxfeat.FxfeatError):
        fxfeat.Backbone(model, example_inputs=x).forward_features(x)


class Lowers(nn.Module):
    def __init__(self, given, made):
        super().__init__()
        self.conv, self.shortcut = nn.Conv2d(given, made, 3, 2, 1), nn.Conv2d(given, made, 1, 2)

    def forward(self, x):
        return F.relu(self.conv(x) + self.shortcut(x))


class Encoder(nn.Module):
    def __init__(self, given):
        super().__init__()
        self.first, self.second, self.third = Lowers(given, 8), Lowers(8, 12), Lowers(12, 16)

    def forward(self, x):
        return self.third(self.second(self.first(x)))


@pytest.mark.parametrize("depth_first", [False, True])
def test_what_another_image_adds_to_a_stage_is_its_level(depth_first):
    class Fuses(nn.Module):
        """Adds what it makes of the depth to what it makes of the colours, after each stage."""

        def __init__(self):
            super().__init__()
            self.colours, self.depths, self.head = Encoder(3), Encoder(1), nn.Linear(16, 5)

        def forward(self, image, depth):
            for name in ("first", "second", "third"):
                if depth_first:
                    depth = getattr(self.depths, name)(depth)
                image = getattr(self.colours, name)(image)
                if not depth_first:
                    depth = getattr(self.depths, name)(depth)
                image = image + depth
            return self.head(image.mean((2, 3)))

    images = torch.rand(1, 3, 64, 64), torch.rand(1, 1, 64, 64)
    assert levels_of(Fuses(), *images).module_name() == ["add", "add_1", "add_2"]


@pytest.mark.parametrize(
    "take",
    [lambda x: x.view(-1, 16), lambda x: x[:, :, 0, 0], lambda x: x.flatten(1)],
    ids=["view", "index", "flatten"],
)
def test_an_average_of_all_places_is_no_level(take):
    class Pools(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = block(3, 8, 2), block(8, 12, 2), block(12, 16, 2)
            self.pool, self.head = nn.AvgPool2d(2, 1), nn.Linear(16, 5)

        def forward(self, x):
            return self.head(take(self.pool(self.third(self.second(self.first(x))))))

    info = levels_of(Pools(), torch.rand(1, 3, 16, 16))
    assert (info.module_name(), info.reduction()) == (["first", "second", "third"], [2, 4, 8])


class Attends(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.attend = nn.LayerNorm(width), nn.MultiheadAttention(width, 2, batch_first=True)
        self.work = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())

    def forward(self, x):
        y = self.norm(x)
        x = x + self.attend(y, y, y)[0]
        return x + self.work(x)


class Tokens(nn.Module):
    """A plain vision transformer with a class token, which gives the map behind each block."""

    def __init__(self):
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 16, 16, 16), nn.Parameter(torch.randn(1, 1, 16))
        self.blocks = nn.ModuleList(Attends(16) for _ in range(4))

    def list_maps(self, x):
        x = self.patches(x)
        shape, maps = x.shape, []
        x = torch.cat([self.token.expand(shape[0], -1, -1), x.flatten(2).transpose(1, 2)], 1)
        for each in self.blocks:
            x = each(x)
            maps.append(x[:, 1:].transpose(1, 2).reshape(shape))
        return maps


class SimplePyramid(Tokens):
    """Makes maps of four sizes of the last one."""

    def __init__(self):
        super().__init__()
        self.finest, self.fine = nn.ConvTranspose2d(16, 8, 4, 4), nn.ConvTranspose2d(16, 8, 2, 2)
        self.coarse = nn.MaxPool2d(2, 2)

    def forward(self, x):
        x = self.list_maps(x)[-1]
        return [self.finest(x), self.fine(x), x, self.coarse(x)]


class Reassembles(Tokens):
    """Brings the maps to four sizes, and fuses them from the coarsest up."""

    def __init__(self):
        super().__init__()
        sizes = nn.ConvTranspose2d(16, 8, 4, 4), nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(16, 8, 1)
        self.sizes = nn.ModuleList([*sizes, nn.Conv2d(16, 8, 3, 2, 1)])
        self.fuse, self.last = nn.ModuleList(block(8, 8) for _ in range(4)), nn.Conv2d(8, 1, 1)

    def forward(self, x):
        maps = [resize(x) for resize, x in zip(self.sizes, self.list_maps(x), strict=True)]
        x = self.fuse[3](maps[3])
        for fuse, each in zip(self.fuse[:3][::-1], maps[:3][::-1], strict=True):
            x = fuse(each + F.interpolate(x, size=each.shape[2:]))
        return self.last(x)


@pytest.mark.parametrize("kind", [SimplePyramid, Reassembles])
def test_a_neck_behind_a_plain_transformer_makes_no_levels(kind):
    info = fxfeat.features_only(kind().eval(), (0, 1, 2, 3), example_inputs=torch.rand(1, 3, 64, 64)).feature_info
    assert info.module_name() == [f"blocks.{index}" for index in range(4)]
    assert info.reduction() == [16] * 4
