"""What has a map's shape and is none: padded, flipped, rolled, turned, transformed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxfeat
from tests.pyramid.test_levels import conv, levels_of

IMAGE = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


class Padded(nn.Module):
    """Pads by hand before each convolution with a stride."""

    def __init__(self, pad):
        super().__init__()
        self.a, self.b, self.c, self.pad = conv(3, 8, 3, 2), nn.Conv2d(8, 16, 3, 2), nn.Conv2d(16, 24, 3, 2), pad

    def forward(self, x):
        x = F.relu(self.a(x))
        x = F.relu(self.b(self.pad(x)))
        return F.relu(self.c(self.pad(x))).mean((2, 3))


def shapes_of(model, image=IMAGE):
    return [tuple(level.shape[1:]) for level in fxfeat.features_only(model.eval(), example_inputs=image)(image)]


PADS = {
    "function": lambda x: F.pad(x, (0, 1, 0, 1)),
    "layer": nn.ZeroPad2d((0, 1, 0, 1)),
    "constant layer": nn.ConstantPad2d((0, 1, 0, 1), -1.0),
    "reflecting layer": nn.ReflectionPad2d((0, 1, 0, 1)),
    "reflecting function": lambda x: F.pad(x, (0, 1, 0, 1), mode="reflect"),
    "replicating layer": nn.ReplicationPad2d((0, 1, 0, 1)),
    "circular layer": nn.CircularPad2d((0, 1, 0, 1)),
    "padded and copied": lambda x: F.pad(x, (0, 1, 0, 1)).contiguous(),
    "padded and bounded": lambda x: F.pad(x, (0, 1, 0, 1)).clamp(max=6.0),
}


@pytest.mark.parametrize("pad", PADS)
def test_a_level_is_the_map_before_it_is_padded(pad):
    assert shapes_of(Padded(PADS[pad])) == [(8, 32, 48), (16, 16, 24), (24, 8, 12)]


def test_a_pad_in_a_sequence():
    layers = [conv(3, 8, 3, 2), nn.ReLU(), nn.ReflectionPad2d(1), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), conv(8, 16)]
    assert shapes_of(nn.Sequential(*layers)) == [(8, 32, 48), (16, 16, 24)]


class Prepared(nn.Module):
    """Does something to the image before two convolutions."""

    def __init__(self, prepare):
        super().__init__()
        self.prepare, self.a, self.b = prepare, conv(3, 8, 3, 2), conv(8, 16, 3, 2)

    def forward(self, x):
        return F.relu(self.b(F.relu(self.a(self.prepare(x))))).mean((2, 3))


def _sample(x):
    grid = F.affine_grid(torch.tensor([[[1.0, 0.3, 0], [0, -1, 0]]]).expand(len(x), 2, 3), list(x.shape), False)
    return F.grid_sample(x, grid, align_corners=False)


TURNED = {
    "flip": lambda x: x.flip(-1),
    "function flip": lambda x: torch.flip(x, (2,)),
    "roll": lambda x: x.roll((32, 48), (2, 3)),
    "rot90": lambda x: torch.rot90(x, 1, (2, 3)),
    "half turn": lambda x: torch.rot90(x, 2, (2, 3)),
    "transpose": lambda x: x.transpose(2, 3),
    "permute": lambda x: x.permute(0, 1, 3, 2),
    "swapaxes and norm": lambda x: (x.swapaxes(2, 3) - 0.5) / 0.5,
    "index": lambda x: x[:, :, torch.arange(63, -1, -1)],
    "index select": lambda x: x.index_select(2, torch.arange(63, -1, -1)),
    "fft2": lambda x: torch.fft.fft2(x).abs().log1p(),
    "grid sample": _sample,
    "flip and pad": lambda x: F.pad(x.flip(-1), (1, 1, 1, 1)),
}


@pytest.mark.parametrize("turn", TURNED)
@pytest.mark.parametrize("size", [(64, 96), (64, 64)])
def test_what_is_not_in_the_order_of_the_image_is_no_map(turn, size):
    if turn in ("index", "index select"):
        size = (64, 64)
    with pytest.raises(fxfeat.TraceError, match="does not lie in the image's order") as caught:
        fxfeat.features_only(Prepared(TURNED[turn]).eval(), example_inputs=IMAGE[..., : size[1]])
    assert str(caught.value).startswith("Prepared has no levels.")


def test_an_image_that_is_flipped_in_words():
    with pytest.raises(fxfeat.TraceError) as caught:
        fxfeat.features_only(Prepared(TURNED["flip"]).eval(), example_inputs=IMAGE)
    assert str(caught.value) == (
        "Prepared has no levels. Looked for: maps that everything computed from the image goes through and whose "
        "resolution drops on the way, or blocks of one class repeated at one resolution. Found: for an image of 64x96, "
        "maps of these sizes: none. What flip gives does not lie in the image's order, and neither does what is "
        "computed from it alone: it is no map of the image. To take values by name, use "
        "fxfeat.create_feature_extractor."
    )


PUT_BACK = {
    "flipped twice": lambda x: x.flip(-1).mul(2).flip(-1),
    "rolled back": lambda x: x.roll(3, 2).roll(-3, 2),
    "channels flipped": lambda x: x.flip(1),
    "channels flipped by name": torch.fliplr,
    "channels picked by an index": lambda x: x[:, torch.arange(2, -1, -1)],
    "channels picked": lambda x: x[:, [2, 1, 0]],
    "channels rolled": lambda x: torch.roll(x, 1, 1),
    "transposed twice": lambda x: x.transpose(2, 3).abs().transpose(2, 3),
    "a look at the flipped": lambda x: x + x.flip(-1),
    "filtered": lambda x: x + torch.fft.irfft2(torch.fft.rfft2(x), s=x.shape[2:]),
    "padded and cropped": lambda x: F.pad(x, (2, 2, 2, 2)).abs()[:, :, 2:-2, 2:-2],
}


@pytest.mark.parametrize("prepare", PUT_BACK)
def test_what_is_put_back_is_a_map(prepare):
    assert levels_of(Prepared(PUT_BACK[prepare]), IMAGE) == [(2, 8, "relu"), (4, 16, "relu_1")]


def test_a_flip_behind_the_last_map():
    model = nn.Sequential(conv(3, 8, 3, 2), conv(8, 16, 3, 2))

    class Flipped(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = model

        def forward(self, x):
            return self.body(x).flip(2).mean((2, 3))

    assert levels_of(Flipped(), IMAGE) == [(2, 8, "body.0"), (4, 16, "body.1")]


class Windows(nn.Module):
    """Attention in windows of 7 places, for which the map is padded, and shifted."""

    def __init__(self, channels, shift):
        super().__init__()
        self.norm, self.qkv, self.shift = nn.LayerNorm(channels), nn.Linear(channels, 3 * channels), shift

    def forward(self, x):
        n, h, w, c = x.shape
        padded = F.pad(self.norm(x), (0, 0, 0, -w % 7, 0, -h % 7))
        if self.shift:
            padded = padded.roll((-3, -3), (1, 2))
        rows, columns = padded.shape[1] // 7, padded.shape[2] // 7
        parts = padded.view(n, rows, 7, columns, 7, c).transpose(2, 3).reshape(-1, 49, c)
        q, k, v = self.qkv(parts).chunk(3, -1)
        parts = F.scaled_dot_product_attention(q, k, v).view(n, rows, columns, 7, 7, c)
        whole = parts.transpose(2, 3).reshape(n, rows * 7, columns * 7, c)
        if self.shift:
            whole = whole.roll((3, 3), (1, 2))
        return x + whole[:, :h, :w]


class Shifting(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch, self.merge = nn.Conv2d(3, 8, 8, 8), nn.Conv2d(8, 16, 2, 2)
        self.one, self.two = nn.Sequential(Windows(8, 0), Windows(8, 1)), nn.Sequential(Windows(16, 0), Windows(16, 1))
        self.fc = nn.Linear(16, 2)

    def forward(self, x):
        x = self.one(self.patch(x).permute(0, 2, 3, 1))
        x = self.two(self.merge(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return self.fc(x.mean((1, 2)))


def test_padded_windows_are_no_level():
    assert shapes_of(Shifting()) == [(8, 8, 12), (16, 4, 6)]
