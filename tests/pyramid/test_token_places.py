"""Where tokens lie on the image: followed from the image, or the request is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxfeat
from fxfeat.pyramid.places import lay_places, move_places
from fxfeat.vision.layout import Layout
from tests.vision.recorded import calls, record_small

IMAGE = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def encoder(depth=3, batch_first=True):
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=batch_first)
    return nn.ModuleList(nn.TransformerEncoder(layer, 1) for _ in range(depth))


class Tokens(nn.Module):
    """Puts its patches of 8 pixels into tokens by ``arrange``, and works on these."""

    batch_first = True

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.blocks = nn.Conv2d(3, 16, 8, 8), encoder(batch_first=self.batch_first)
        self.more, self.head = nn.Parameter(torch.rand(1, 3, 16)), nn.Linear(16, 2)

    def embed(self, x):
        return self.patch(x).flatten(2).transpose(1, 2)

    def forward(self, x):
        x = self.arrange(self.embed(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


class Around(Tokens):
    """A class token before the patches, and two registers behind."""

    places = slice(1, 25)

    def arrange(self, x):
        more = self.more.expand(len(x), -1, -1)
        return torch.cat([more[:, :1], x, more[:, 1:]], 1)


class Between(Tokens):
    """A distillation token between the halves of the patches."""

    places = (*range(12), *range(13, 25))

    def arrange(self, x):
        return torch.cat([x[:, :12], self.more[:, :1].expand(len(x), -1, -1), x[:, 12:]], 1)


class Detection(Tokens):
    """A class token before the patches and detection tokens behind, put there one after the other."""

    places = slice(1, 25)

    def arrange(self, x):
        x = torch.cat((self.more[:, :1].repeat(len(x), 1, 1), x), dim=1)
        return torch.cat((x, self.more[:, 1:].repeat(len(x), 1, 1)), dim=1)


class Columns(Tokens):
    """Reads its patches column by column."""

    places = tuple(row + 4 * column for row in range(4) for column in range(6))

    def embed(self, x):
        return self.patch(x).transpose(2, 3).flatten(2).transpose(1, 2)

    def arrange(self, x):
        return x


class Backwards(Tokens):
    """Reads its patches from the last to the first."""

    places = tuple(range(24))[::-1]

    def arrange(self, x):
        return x.flip(1)


class Linear(Tokens):
    """Cuts its patches by reshaping and projects them by a linear layer."""

    places = slice(None)

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(3 * 64, 16)

    def embed(self, x):
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // 8, 8, w // 8, 8).permute(0, 2, 4, 3, 5, 1).reshape(n, -1, 64 * c)
        return self.project(x)

    def arrange(self, x):
        return x


class Unfolded(Linear):
    """Cuts its patches by ``nn.Unfold``, which overlap."""

    def __init__(self):
        super().__init__()
        self.unfold, self.project = nn.Unfold(10, stride=8, padding=1), nn.Linear(300, 16)

    def embed(self, x):
        return self.project(self.unfold(x).transpose(1, 2))


def hooked(model, image):
    seen = []
    hook = model.blocks[-1].register_forward_hook(lambda _, __, result: seen.append(result.clone()))
    with torch.no_grad():
        model(image)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("kind", [Around, Between, Detection, Columns, Backwards, Linear, Unfolded])
def test_a_map_is_made_of_the_places_of_the_image_in_its_order(kind):
    model = kind().eval()
    pyramid = fxfeat.features_only(model, (0, -1), example_inputs=IMAGE)
    assert pyramid.feature_info.module_name() == ["blocks.0", "blocks.2"]
    places = model.places if isinstance(model.places, slice) else list(model.places)
    expected = hooked(model, IMAGE)[:, places].transpose(1, 2).reshape(2, 16, 4, 6)
    with torch.no_grad():
        assert torch.equal(pyramid(IMAGE)[-1], expected)


def test_tokens_around_the_patches_at_another_size():
    model = Around().eval()
    image = torch.rand(1, 3, 48, 16)
    with torch.no_grad():
        level = fxfeat.features_only(model, (-1,), example_inputs=IMAGE)(image)[0]
    assert torch.equal(level, hooked(model, image)[:, 1:13].transpose(1, 2).reshape(1, 16, 6, 2))


class TokensFirst(Around):
    """Works on tokens before images, as ``nn.MultiheadAttention`` has it unless told otherwise."""

    batch_first = False

    def forward(self, x):
        x = self.arrange(self.embed(x)).permute(1, 0, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.permute(1, 0, 2).mean(1))


def test_tokens_before_images():
    model = TokensFirst().eval()
    pyramid = fxfeat.features_only(model, (-1,), example_inputs=IMAGE)
    expected = hooked(model, IMAGE)[1:25].permute(1, 2, 0).reshape(2, 16, 4, 6)
    with torch.no_grad():
        assert torch.equal(pyramid(IMAGE)[0], expected)
        nlc = fxfeat.features_only(model, (-1,), output_fmt="NLC", example_inputs=IMAGE)(IMAGE)[0]
    assert torch.equal(nlc, expected.flatten(2).transpose(1, 2))


class Shuffled(Tokens):
    """Masked autoencoders keep some tokens, in an order that is drawn."""

    def arrange(self, x):
        order = torch.rand(x.shape[:2], device=x.device).argsort(1)
        return torch.gather(x, 1, order[:, :12, None].expand(-1, -1, 16))


class ShuffledAll(Tokens):
    """As many tokens as places, in an order that is drawn."""

    def arrange(self, x):
        return x[:, torch.randperm(x.shape[1])]


class Kept(Tokens):
    """Keeps the tokens with the highest scores."""

    def arrange(self, x):
        best = x.norm(dim=-1).topk(12, 1).indices
        return torch.gather(x, 1, best[..., None].expand(-1, -1, 16))


class SortedByValue(Tokens):
    """Sorts its tokens by a score."""

    def arrange(self, x):
        order = x.sum(-1).argsort(1)
        return torch.take_along_dim(x, order[..., None], 1)


class Merged(Tokens):
    """Adds each second token to the one it is most like."""

    def arrange(self, x):
        left, right = x[:, ::2], x[:, 1::2]
        like = (left @ right.transpose(1, 2)).argmax(-1)
        return left.scatter_add(1, like[..., None].expand_as(right), right)


class Latents(Tokens):
    """A few learnt queries look at the patches, and are worked on in their place."""

    def arrange(self, x):
        queries = self.more[:, :2].expand(len(x), -1, -1).repeat(1, 12, 1)
        return nn.functional.scaled_dot_product_attention(queries, x, x)


@pytest.mark.parametrize("kind", [Shuffled, ShuffledAll, Kept, SortedByValue, Merged, Latents])
def test_dropped_shuffled_and_merged_tokens_make_no_map(kind):
    with pytest.raises(fxfeat.TraceError) as caught:
        fxfeat.features_only(kind().eval(), example_inputs=IMAGE)
    name = str(caught.value).split("Its only map is ")[1].split(",")[0]
    assert str(caught.value) == (
        f"{kind.__name__} has no levels. Its only map is {name}, the projection that makes its tokens; where the "
        "tokens after it lie on the image cannot be followed, since they are dropped, merged, or put into an order "
        "that depends on values. To take values by name, use fxfeat.create_feature_extractor."
    )


class Spectrogram(Around):
    """Takes frames by frequencies, without an axis of channels."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(1, 16, 8, 8)

    def embed(self, x):
        return super().embed(x.unsqueeze(1).transpose(2, 3))


class FramesFirst(Around):
    """Takes clips with frames before channels."""

    def embed(self, x):
        n, t, c, h, w = x.shape
        x = super().embed(x.reshape(n * t, c, h, w))
        return x.reshape(n, -1, 16)


class Recurrent(nn.Module):
    """A network of images for each frame, then one of frames."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))
        self.rnn, self.head = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x):
        n, t = x.shape[:2]
        x = self.body(x.flatten(0, 1)).mean((2, 3)).unflatten(0, (n, t))
        return self.head(self.rnn(x)[0][:, -1])


@pytest.mark.parametrize(
    ("kind", "shape"), [(Spectrogram, (1, 64, 32)), (FramesFirst, (1, 4, 3, 16, 16)), (Recurrent, (1, 4, 3, 16, 16))]
)
def test_time_and_frequency_are_no_channels(kind, shape):
    with pytest.raises(fxfeat.TraceError, match=rf"^{kind.__name__} has no levels\."):
        fxfeat.features_only(kind().eval(), example_inputs=torch.rand(shape))


class Clip(Around):
    """Takes clips, and orders its tokens by place, then by frame."""

    def embed(self, x):
        n, c, t, h, w = x.shape
        x = super().embed(x.transpose(1, 2).reshape(n * t, c, h, w))
        return x.reshape(n, t, -1, 16).transpose(1, 2).flatten(1, 2)


def test_frames_are_an_axis_of_their_own():
    model, clip = Clip().eval(), torch.rand(1, 3, 4, 16, 24)
    pyramid = fxfeat.features_only(model, (-1,), example_inputs=clip)
    assert pyramid.feature_info.reduction() == [(1, 8, 8)]
    expected = hooked(model, clip)[:, 1:25].reshape(1, 2, 3, 4, 16).permute(0, 4, 3, 1, 2)
    with torch.no_grad():
        assert torch.equal(pyramid(clip)[0], expected)


class Wave(nn.Module):
    """Convolutions of a wave, then a transformer on what they give, with a class token."""

    def __init__(self):
        super().__init__()
        self.waves = nn.Sequential(nn.Conv1d(1, 16, 10, 5), nn.GELU(), nn.Conv1d(16, 16, 3, 2), nn.GELU())
        self.token, self.blocks, self.head = nn.Parameter(torch.rand(1, 1, 16)), encoder(), nn.Linear(16, 2)

    def forward(self, x):
        x = self.waves(x).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


def test_tokens_of_a_signal():
    model, wave = Wave().eval(), torch.rand(1, 1, 400)
    pyramid = fxfeat.features_only(model, (-1,), example_inputs=wave)
    assert pyramid.feature_info.reduction() == [10]
    with torch.no_grad():
        assert torch.equal(pyramid(wave)[0], hooked(model, wave)[:, 1:].transpose(1, 2))


class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        rows = torch.einsum("nlc,nmc->nlm", tokens, tokens).softmax(-1)
        mixed = torch.einsum("nlm,nmc->ncl", rows, tokens)
        sums = tokens.view(1, 2, 2, 2, 4).mean(3)
        return self.linear(tokens), mixed, sums, tokens.cumsum(1)


def test_steps_move_places_or_lose_them():
    recording = record_small(Steps(), torch.rand(1, 4, 2, 4))
    nodes, places = calls(recording), {}
    image = next(iter(recording.nodes))
    places[image] = lay_places(Layout("NCHW", (2, 4), 4, (1.0, 1.0)), (1, 4, 2, 4))
    for node in recording.nodes:
        moved = move_places(recording, node, places)
        if moved is not None:
            places[node] = moved
    columns = torch.tensor([1.0, 2, 3, 4, 1, 2, 3, 4], dtype=torch.float64)
    assert torch.equal(places[nodes["linear"]][1][0, :, 0], columns)
    assert torch.equal(places[nodes["einsum_1"]][1][0, 0], columns)
    assert places[nodes["mean"]][1][0, ..., 0].tolist() == [[1.5, 3.5], [1.5, 3.5]]
    assert nodes["cumsum"] not in places


class FramesTurned(nn.Module):
    """Takes clips with frames before channels, and turns them for a convolution of volumes."""

    def __init__(self):
        super().__init__()
        self.patch, self.blocks = nn.Conv3d(3, 16, (2, 8, 8), (2, 8, 8)), encoder()

    def forward(self, x):
        x = self.patch(x.permute(0, 2, 1, 3, 4)).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return x.mean(1)


@pytest.mark.parametrize("frames", [4, 16])
def test_frames_that_are_turned_are_no_depth(frames):
    with pytest.raises(fxfeat.TraceError, match=r"^FramesTurned has no levels\."):
        fxfeat.features_only(FramesTurned().eval(), example_inputs=torch.rand(1, frames, 3, 16, 16))
