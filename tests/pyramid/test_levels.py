"""Where levels end, one tiny model for each way to lower the resolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxfeat
from fxfeat.pyramid.search import search_levels
from fxfeat.trace.setup import read_setup

IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def conv(before: int, after: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, size, stride, size // 2)


class Block(nn.Module):
    def __init__(self, before, after, stride=1):
        super().__init__()
        self.conv1 = conv(before, after, 3, stride)
        self.conv2 = conv(after, after)
        self.shortcut = conv(before, after, 1, stride) if stride > 1 or before != after else nn.Identity()

    def forward(self, x):
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv(3, 4, 3, 2)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.stage1 = nn.Sequential(Block(4, 4), Block(4, 4))
        self.stage2 = nn.Sequential(Block(4, 8, 2), Block(8, 8))
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        x = self.stage2(self.stage1(self.pool(self.act(self.stem(x)))))
        return self.fc(x.mean((2, 3)))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv(3, 4), conv(4, 8), conv(8, 16)
        self.fc = nn.Linear(16, 2)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc(F.relu(self.conv3(x)).mean((2, 3)))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down0, self.down1, self.down2 = conv(3, 4), conv(4, 8), conv(8, 16)
        self.up1, self.up0 = conv(24, 8), conv(12, 4)

    def forward(self, x):
        zero = F.relu(self.down0(x))
        one = F.relu(self.down1(F.max_pool2d(zero, 2)))
        two = F.relu(self.down2(F.max_pool2d(one, 2)))
        one = F.relu(self.up1(torch.cat([F.interpolate(two, scale_factor=2.0), one], 1)))
        return self.up0(torch.cat([F.interpolate(one, scale_factor=2.0), zero], 1))


class SideBySide(nn.Module):
    """Three resolutions at once, joined at the end from the highest down."""

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 4, 3, 2)
        self.to_low, self.to_lower = conv(4, 8, 3, 2), conv(8, 16, 3, 2)
        self.high, self.low, self.lower = conv(4, 4), conv(8, 8), conv(16, 16)
        self.join_low, self.join_lower = conv(4, 8, 3, 2), conv(8, 16, 3, 2)
        self.fc = nn.Linear(16, 2)

    def forward(self, x):
        x = self.stem(x)
        low = self.to_low(x)
        high, low, lower = self.high(x), self.low(low), self.lower(self.to_lower(low))
        joined = self.join_lower(low + self.join_low(high)) + lower
        return self.fc(joined.mean((2, 3)))


class Glance(nn.Module):
    """A block that looks at a smaller copy of its map and comes back."""

    def __init__(self, channels):
        super().__init__()
        self.conv, self.small = conv(channels, channels), conv(channels, channels)

    def forward(self, x):
        small = F.interpolate(self.small(F.avg_pool2d(x, 4)), size=x.shape[-2:])
        return x + self.conv(x) * torch.sigmoid(small)


class Expanding(nn.Module):
    """Widens its map for the head only, as in MobileNet v2."""

    def __init__(self):
        super().__init__()
        last = nn.Sequential(conv(8, 32, 1), nn.BatchNorm2d(32), nn.ReLU())
        self.features = nn.ModuleList([conv(3, 4, 3, 2), Block(4, 8, 2), Block(8, 8), last])
        self.fc = nn.Linear(32, 2)

    def forward(self, x):
        for layer in self.features:
            x = layer(x)
        return self.fc(x.mean((2, 3)))


class InputNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.rand(1, 3, 1, 1))
        self.conv, self.fc = conv(3, 4, 3, 2), nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.conv((x - self.mean) / 2).relu().mean((2, 3)))


class ViewAfterInPlace(nn.Module):
    """What was overwritten in place is given a second name, which the pool then reads."""

    def __init__(self):
        super().__init__()
        self.conv1, self.act, self.same = conv(3, 4, 3, 2), nn.ReLU(inplace=True), nn.Identity()
        self.conv2, self.fc = conv(4, 8, 3, 2), nn.Linear(8, 2)

    def forward(self, x):
        x = self.same(self.act(self.conv1(x)))
        return self.fc(self.conv2(x).mean((2, 3)))


def levels_of(model: nn.Module, image: torch.Tensor = IMAGE) -> list[tuple[int, int, str]]:
    found = search_levels(read_setup(model.eval(), None, None, image))
    return [(level.reduction, level.layout.channels, level.module) for level in found.levels]


def test_stages_and_the_activation_before_a_pool():
    assert levels_of(Residual()) == [(2, 4, "act"), (4, 4, "stage1"), (8, 8, "stage2")]


def test_activations_before_functional_pools():
    assert levels_of(Functional()) == [(1, 4, "relu"), (2, 8, "relu_1"), (4, 16, "relu_2")]


def test_a_u_gives_its_descent():
    assert levels_of(UNet()) == [(1, 4, "relu"), (2, 8, "relu_1"), (4, 16, "relu_2")]


class Around(nn.Module):
    """A U whose bottom has a way round it, too."""

    def __init__(self):
        super().__init__()
        self.down0, self.down1, self.down2 = conv(3, 4, 3, 2), conv(4, 8, 3, 2), conv(8, 16, 3, 2)
        self.bottom, self.up1, self.up0 = conv(16, 32), conv(56, 8), conv(12, 2)

    def forward(self, x):
        zero = self.down0(x)
        one = self.down1(zero)
        two = self.down2(one)
        up = F.interpolate(torch.cat([two, self.bottom(two)], 1), scale_factor=2.0)
        up = F.interpolate(self.up1(torch.cat([one, up], 1)), scale_factor=2.0)
        return self.up0(torch.cat([zero, up], 1))


def test_the_way_round_the_bottom_of_a_u_is_not_joined():
    assert levels_of(Around()) == [(2, 4, "down0"), (4, 8, "down1"), (8, 32, "bottom")]


def test_resolutions_side_by_side_end_where_the_last_of_each_goes_down():
    assert levels_of(SideBySide()) == [(2, 4, "high"), (4, 8, "add"), (8, 16, "add_1")]


def test_a_block_that_looks_at_a_smaller_copy_is_no_level():
    model = nn.Sequential(conv(3, 4, 3, 2), Glance(4), conv(4, 8, 3, 2), Glance(8), nn.AdaptiveAvgPool2d(1))
    assert levels_of(model) == [(2, 4, "1"), (4, 8, "3")]


def test_channels_for_the_head_alone_are_left_out():
    assert levels_of(Expanding()) == [(2, 4, "features.0"), (4, 8, "features.2")]


def test_a_normalised_image_is_no_level():
    assert levels_of(InputNorm()) == [(2, 4, "relu")]


def test_a_view_of_what_was_overwritten_is_not_passed_by():
    assert [name for _, _, name in levels_of(ViewAfterInPlace())] == ["same", "conv2"]


def test_work_then_pool_in_one_container_ends_before_the_pool():
    parts = [nn.Sequential(conv(a, b), nn.ReLU(), conv(b, b), nn.MaxPool2d(2)) for a, b in ((3, 4), (4, 8))]
    model = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    assert levels_of(model) == [(1, 4, "0.2"), (2, 8, "1.2"), (4, 8, "1")]


def test_one_convolution_and_a_pool_are_one_step_down():
    parts = [nn.Sequential(conv(a, b), nn.ReLU(), nn.MaxPool2d(2)) for a, b in ((3, 4), (4, 8))]
    model = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    assert levels_of(model) == [(2, 4, "0"), (4, 8, "1")]


def test_stage_with_its_reduction_at_the_end():
    stage = nn.Sequential(Block(4, 4), Block(4, 4), conv(4, 8, 3, 2))
    model = nn.Sequential(conv(3, 4, 4, 4), stage, nn.Sequential(Block(8, 8)), nn.AdaptiveAvgPool2d(1))
    assert levels_of(model) == [(4, 4, "1.1"), (8, 8, "2")]


def test_convolutions_without_padding_do_not_count_as_strides():
    layers = [nn.Conv2d(3, 4, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 5), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 5 * 5, 2))
    assert [level[0] for level in levels_of(model, torch.rand(1, 3, 32, 32))] == [1, 2, 4]


def test_volumes_and_signals():
    volume = nn.Sequential(nn.Conv3d(1, 4, 3, 2, 1), nn.Conv3d(4, 8, 3, 2, 1), nn.AdaptiveAvgPool3d(1))
    assert levels_of(volume, torch.rand(1, 1, 16, 16, 16)) == [(2, 4, "0"), (4, 8, "1")]
    signal = nn.Sequential(nn.Conv1d(2, 4, 9, 4, 4), nn.Conv1d(4, 8, 9, 2, 4), nn.AdaptiveAvgPool1d(1))
    assert levels_of(signal, torch.rand(1, 2, 256)) == [(4, 4, "0"), (8, 8, "1")]


def test_every_level_says_why():
    pyramid = fxfeat.features_only(Residual(), example_inputs=IMAGE)
    assert pyramid.feature_info.get("why") == [
        "goes into pool, the outermost module that holds this one drop in resolution",
        "goes into stage2, the outermost module that holds this one drop in resolution",
        "the last map of the lowest resolution before the head",
    ]


def test_rows_are_refused_as_no_image():
    with pytest.raises(fxfeat.TraceError) as caught:
        fxfeat.features_only(nn.Sequential(nn.Linear(12, 4)))
    assert str(caught.value) == (
        "A feature pyramid needs an image (N, C, H, W), a volume (N, C, D, H, W) or a signal (N, C, L), and Sequential "
        "takes input_1 of shape (2, 12). If it takes images too, pass example_inputs= with one."
    )


def test_a_model_without_levels_is_told_what_was_looked_for():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    with pytest.raises(fxfeat.TraceError) as caught:
        fxfeat.features_only(model, example_inputs=torch.rand(1, 3, 8, 8))
    assert str(caught.value) == (
        "Sequential has no levels. Looked for: maps that everything computed from the image goes through and whose "
        "resolution drops on the way, or blocks of one class repeated at one resolution. Found: for an image of 8x8, "
        "maps of these sizes: 2 of 8x8. To take values by name, use fxfeat.create_feature_extractor."
    )


class Small(nn.Module):
    """Convolutions without padding, and a classifier that takes one size of image alone."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5), nn.Linear(256, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.a(x)), 2)
        x = F.max_pool2d(F.relu(self.b(x)), 2)
        return self.fc(x.flatten(1))


def test_convolutions_without_padding_do_not_count_as_strides_at_one_size():
    assert levels_of(Small(), torch.rand(1, 1, 28, 28)) == [(1, 6, "relu"), (2, 16, "relu_1"), (4, 16, "max_pool2d_1")]


@pytest.mark.parametrize("size", [(33, 47), (33, 33), (64, 47)])
def test_few_places_have_the_steps_of_their_strides(size):
    model = nn.Sequential(*(nn.Conv2d(width, 8, 3, 2, 1) for width in (3, 8, 8, 8, 8)))
    assert levels_of(model, torch.rand(1, 3, *size)) == [(2**i, 8, str(i - 1)) for i in range(1, 6)]


class Adds(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mix = conv(width, width)

    def forward(self, x):
        return x + self.mix(x)


class Short(nn.Module):
    """A stage that lowers the resolution after its own blocks."""

    def __init__(self, depth, before, after):
        super().__init__()
        self.blocks, self.down = nn.Sequential(*(Adds(before) for _ in range(depth))), nn.Conv2d(before, after, 2, 2)

    def forward(self, x):
        return self.down(self.blocks(x))


@pytest.mark.parametrize("depth", [1, 2])
def test_a_stage_of_any_depth_ends_before_its_reduction(depth):
    model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), Short(depth, 8, 16), Short(depth, 16, 32), Adds(32))
    assert levels_of(model) == [(4, 8, "1.blocks"), (8, 16, "2.blocks"), (16, 32, "3")]
