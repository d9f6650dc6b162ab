"""Strides that differ by direction."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxfeat
from tests.pyramid.test_levels import conv

TEXT = torch.rand(1, 1, 32, 128, generator=torch.Generator().manual_seed(0))
IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class Text(nn.Module):
    """A text recogniser: convolutions that keep the width, then a recurrent network over columns."""

    def __init__(self, pools=(2, 2, (2, 1), (2, 1))):
        super().__init__()
        widths = (1, 8, 16, 32, 64)
        pairs = zip(widths, widths[1:], pools, strict=False)
        layers = [nn.Sequential(conv(a, b), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(pool)) for a, b, pool in pairs]
        self.layers, self.rnn, self.head = (
            nn.Sequential(*layers),
            nn.LSTM(128, 16, bidirectional=True),
            nn.Linear(32, 9),
        )

    def forward(self, x):
        x = self.layers(x)
        n, c, h, w = x.shape
        return self.head(self.rnn(x.reshape(n, c * h, w).permute(2, 0, 1))[0])


class Squeezed(Text):
    """Its last map is one row, which it takes for a sequence."""

    def __init__(self):
        super().__init__()
        self.last, self.mix = nn.Conv2d(64, 64, (2, 1)), nn.TransformerEncoderLayer(64, 2, 64, 0.0, batch_first=True)
        self.head = nn.Linear(64, 9)

    def forward(self, x):
        x = F.relu(self.last(self.layers(x))).squeeze(2).transpose(1, 2)
        return self.head(self.mix(x))


class Wide(nn.Module):
    """Three convolutions, of which two lower the height alone."""

    def __init__(self, strides=(2, (2, 1), (2, 1))):
        super().__init__()
        self.a, self.b, self.c = (
            conv(i, o, 3, s) for (i, o), s in zip(((3, 8), (8, 16), (16, 32)), strides, strict=True)
        )

    def forward(self, x):
        return self.c(F.relu(self.b(F.relu(self.a(x)))))


class Heard(nn.Module):
    """Pools its spectrogram over frequency, then over time."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(conv(1, 16, 3, 2), nn.ReLU(), conv(16, 64, 3, 2), nn.ReLU())
        self.inner, self.head = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x):
        x = self.body(x).mean(3)
        return self.head(F.relu(self.inner(x.amax(2) + x.mean(2))))


def test_columns_of_text_are_no_tokens():
    info = fxfeat.features_only(Text().eval(), example_inputs=TEXT).feature_info
    assert (info.channels(), info.reduction()) == ([8, 16, 32, 64], [2, 4, (8, 4), (16, 4)])


def test_one_row_of_places_is_no_map_of_tokens():
    info = fxfeat.features_only(Squeezed().eval(), example_inputs=TEXT).feature_info
    assert info.module_name() == ["layers.0", "layers.1", "layers.2", "layers.3"]
    assert info.reduction() == [2, 4, (8, 4), (16, 4)]


def test_a_stride_along_time_alone():
    model = Wide((2, (1, 2), (1, 4))).eval()
    info = fxfeat.features_only(model, example_inputs=IMAGE).feature_info
    assert info.reduction() == [2, (2, 4), (2, 16)]
    assert info.get("shape") == [(1, 8, 32, 32), (1, 16, 32, 16), (1, 32, 32, 4)]


def test_what_is_pooled_over_frequency_is_no_map():
    info = fxfeat.features_only(Heard().eval(), example_inputs=torch.rand(1, 1, 64, 32)).feature_info
    assert (info.channels(), info.reduction()) == ([16, 64], [2, 4])


def test_patches_that_are_no_squares():
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
            self.patch, self.blocks = nn.Conv2d(3, 16, (16, 8), (16, 8)), nn.TransformerEncoder(layer, 2)

        def forward(self, x):
            return self.blocks(self.patch(x).flatten(2).transpose(1, 2)).mean(1)

    model = Patches().eval()
    assert fxfeat.features_only(model, example_inputs=IMAGE).feature_info.reduction() == [(16, 8), (16, 8)]
    with pytest.raises(fxfeat.RequestError) as caught:
        fxfeat.fpn_backbone(model, example_inputs=IMAGE)
    assert str(caught.value) == (
        "A pyramid on the one map of a flat model needs square patches; those of this model are (16, 8) pixels."
    )


def test_a_volume_whose_depth_stays():
    model = nn.Sequential(nn.Conv3d(1, 4, 3, (1, 2, 2), 1), nn.ReLU(), nn.Conv3d(4, 8, 3, 2, 1), nn.ReLU()).eval()
    info = fxfeat.features_only(model, example_inputs=torch.rand(1, 1, 8, 16, 16)).feature_info
    assert info.reduction() == [(1, 2, 2), (2, 4, 4)]


@pytest.mark.parametrize("strides", [(2, (2, 1), (2, 1)), (2, (1, 2), 2), ((4, 2), (2, 1), (1, 4))])
def test_strides_of_a_backbone_are_those_of_its_maps(strides):
    backbone = fxfeat.fpn_backbone(Wide(strides).eval(), (0, 1, 2), example_inputs=IMAGE, out_channels=8).eval()
    pairs = [(stride, stride) if isinstance(stride, int) else stride for stride in backbone.strides]
    for size in ((64, 64), (128, 96)):
        maps = backbone(torch.rand(1, 3, *size)).values()
        assert [(m.shape[-2] * a, m.shape[-1] * b) for m, (a, b) in zip(list(maps)[:3], pairs, strict=False)] == [
            size
        ] * 3


def test_sizes_must_be_multiples_of_other_numbers_down_and_across():
    class Folds(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(24, 8), conv(16, 8)

        def forward(self, x):
            n, c, h, w = x.shape
            x = self.a(x.view(n, c, h // 8, 8, w).transpose(2, 3).reshape(n, 8 * c, h // 8, w))
            return self.b(x.view(n, 8, h // 8, w // 2, 2).permute(0, 1, 4, 2, 3).reshape(n, 16, h // 8, w // 2))

    backbone = fxfeat.fpn_backbone(Folds().eval(), (0, 1), example_inputs=IMAGE, out_channels=8)
    assert (backbone.strides[:2], backbone.size_divisibility) == ([(8, 1), (8, 2)], (8, 2))
    assert [tuple(level.shape[-2:]) for level in backbone(torch.rand(1, 3, 30, 15)).values()][:2] == [(4, 15), (4, 8)]


def test_anchors_are_as_large_as_what_a_step_spans():
    backbone = fxfeat.fpn_backbone(Wide((2, (4, 1), (2, 2))).eval(), (0, 1, 2), example_inputs=IMAGE, extra_blocks=None)
    assert backbone.strides == [2, (8, 2), (16, 4)]
    assert backbone.anchor_generator().sizes == ((16,), (32,), (64,))


def test_detectors_that_pool_no_regions_take_pairs_and_others_say_so():
    model = Wide((2, (4, 1), (2, 2))).eval()
    detector = fxfeat.detection.retinanet(model, 3, out_indices=(1, 2), example_inputs=IMAGE).eval()
    assert detector.backbone.strides[:2] == [(8, 2), (16, 4)]
    assert detector([IMAGE[0]])[0]["boxes"].shape[1] == 4
    with pytest.raises(fxfeat.RequestError) as caught:
        fxfeat.detection.faster_rcnn(model, 3, out_indices=(1, 2), example_inputs=IMAGE, extra_blocks=None)
    assert str(caught.value) == (
        "Regions are pooled from maps with one stride for height and width; those of this backbone are [(8, 2), (16, "
        "4)]. Choose others with out_indices=, or build a detector that pools none, such as retinanet."
    )


def test_a_limit_is_one_for_each_direction():
    info = fxfeat.features_only(Wide((2, (2, 1), (4, 2))).eval(), output_stride=4, example_inputs=IMAGE).feature_info
    assert info.reduction() == [2, (4, 2), 4]
    with pytest.raises(fxfeat.RequestError) as caught:
        fxfeat.features_only(Wide((2, (2, 1), (4, 2))).eval(), output_stride=8, example_inputs=IMAGE)
    assert str(caught.value) == (
        "output_stride=8 is no reduction of Wide, whose convolutions and pools leave maps reduced by 2, 4, 16. Pass "
        "one of these, for instance output_stride=4."
    )


def layer(inputs, outputs, kernel=3, stride=(1, 2, 2)):
    padding = (kernel // 2, 1, 1) if kernel == 3 else (kernel // 2, 0, 0)
    size = (kernel, 3, 3) if kernel == 3 else (kernel, 1, 1)
    return nn.Sequential(nn.Conv3d(inputs, outputs, size, stride, padding), nn.ReLU())


class TwoPaths(nn.Module):
    """A path of few frames and one of all, which is joined to it at each stage."""

    def __init__(self):
        super().__init__()
        self.slow = nn.ModuleList([layer(3, 16), layer(24, 32), layer(40, 64)])
        self.fast = nn.ModuleList([layer(3, 4), layer(4, 8), layer(8, 16)])
        self.lateral = nn.ModuleList([layer(4, 8, 5, (4, 1, 1)), layer(8, 8, 5, (4, 1, 1))])
        self.head = nn.Linear(80, 3)

    def forward(self, x):
        slow, fast = x[:, :, ::4], x
        for slowly, fastly, lateral in zip(self.slow, self.fast, [*self.lateral, None], strict=True):
            slow, fast = slowly(slow), fastly(fast)
            slow = slow if lateral is None else torch.cat([slow, lateral(fast)], 1)
        return self.head(torch.cat([slow.mean((2, 3, 4)), fast.mean((2, 3, 4))], 1))


def test_paths_beside_each_other_have_reductions_of_their_own():
    clip = torch.rand(1, 3, 16, 32, 32)
    pyramid = fxfeat.features_only(TwoPaths().eval(), example_inputs=clip)
    for value, level in zip(pyramid(clip), pyramid.feature_info, strict=True):
        steps = level["reduction"] if isinstance(level["reduction"], tuple) else (level["reduction"],) * 3
        assert tuple(size // step for size, step in zip(clip.shape[2:], steps, strict=True)) == tuple(value.shape[2:])
