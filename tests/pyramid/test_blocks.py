"""Flat models: blocks at one resolution, tokens with a prefix."""

from __future__ import annotations

import torch
from torch import nn

import fxfeat

IMAGE = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj((q @ k.transpose(1, 2)).softmax(-1) @ v)


class Layer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), Attention(width)

    def forward(self, x):
        return x + self.attention(self.norm(x))


class Tokens(nn.Module):
    def __init__(self, prefix=1, depth=4):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 8, 8)
        self.prefix = nn.Parameter(torch.randn(1, prefix, 8)) if prefix else None
        self.layers = nn.ModuleList(Layer(8) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 2)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        if self.prefix is not None:
            x = torch.cat([self.prefix.expand(x.shape[0], -1, -1), x], 1)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


class PyTorchs(nn.Module):
    """The blocks lie inside a layer of PyTorch's own."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 8, 8)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 3)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.encoder(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


def hooked(model: nn.Module, layers: nn.ModuleList, image: torch.Tensor) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    hooks = [layer.register_forward_hook(lambda _, __, result: seen.append(result.clone())) for layer in layers]
    with torch.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    return seen


def test_last_three_blocks_without_their_prefix_tokens():
    model = Tokens(prefix=5).eval()
    pyramid = fxfeat.features_only(model, example_inputs=IMAGE)
    assert pyramid.feature_info.module_name() == ["layers.1", "layers.2", "layers.3"]
    assert pyramid.feature_info.reduction() == [8, 8, 8]
    with torch.no_grad():
        found = pyramid(IMAGE)
    expected = [held[:, 5:].unflatten(1, (4, 6)).permute(0, 3, 1, 2) for held in hooked(model, model.layers, IMAGE)]
    assert all(torch.equal(left, right) for left, right in zip(found, expected[1:], strict=True))


def test_other_sizes_and_formats():
    model = Tokens().eval()
    image = torch.rand(1, 3, 64, 32)
    expected = hooked(model, model.layers, image)[-1][:, 1:]
    with torch.no_grad():
        nlc = fxfeat.features_only(model, 1, output_fmt="NLC", example_inputs=IMAGE)(image)[0]
        nhwc = fxfeat.features_only(model, 1, output_fmt="NHWC", example_inputs=IMAGE)(image)[0]
    assert torch.equal(nlc, expected)
    assert torch.equal(nhwc, expected.unflatten(1, (8, 4)))


def test_blocks_past_the_deepest_asked_are_gone():
    pyramid = fxfeat.features_only(Tokens(), (1, 0), example_inputs=IMAGE)
    assert {name.split(".")[1] for name in pyramid.state_dict() if name.startswith("layers")} == {"0", "1"}
    assert not [name for name in pyramid.state_dict() if name.startswith(("norm", "head"))]


def test_blocks_inside_pytorchs_own_encoder():
    pyramid = fxfeat.features_only(PyTorchs().eval(), example_inputs=IMAGE)
    assert pyramid.feature_info.module_name() == [f"encoder.layers.{index}" for index in range(3)]


def test_why():
    info = fxfeat.features_only(Tokens(), example_inputs=IMAGE).feature_info
    assert info[1]["why"] == "block 2 of 4: Layer, repeated at one resolution"
    assert info[1]["shape"] == (2, 8, 4, 6)
