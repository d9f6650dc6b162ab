"""``get_intermediate_layers``, the norm of levels, masks, and what is refused by name."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxfeat
from fxfeat import RequestError
from tests.backbone import models
from tests.backbone.build import build
from tests.backbone.models import IMAGE


def to_map(tokens):
    return tokens.transpose(1, 2).reshape(len(tokens), -1, 4, 4)


def blocks_of(model):
    x = model.patch(IMAGE).flatten(2).transpose(1, 2)
    x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], 1) + model.pos
    values = []
    for block in model.blocks:
        x = block(x)
        values.append(x)
    return values


@pytest.mark.parametrize("norm", (False, True))
@pytest.mark.parametrize("reshape", (False, True))
@pytest.mark.parametrize(("n", "indices"), ((1, [2]), (2, [1, 2]), ([0, 2], [0, 2]), ((-2,), [1]), (range(2), [0, 1])))
def test_layers(n, indices, reshape, norm):
    model, backbone = build(models.Tokens)
    layers = backbone.get_intermediate_layers(IMAGE, n, reshape=reshape, norm=norm)
    for layer, index in zip(layers, indices, strict=True):
        value = blocks_of(model)[index]
        patches = (model.norm(value) if norm else value)[:, 1:]
        assert torch.equal(layer, to_map(patches) if reshape else patches)


def test_layers_with_their_prefix():
    model, backbone = build(models.Tokens)
    ((tokens, prefix),) = backbone.get_intermediate_layers(IMAGE, return_prefix_tokens=True, norm=True)
    value = model.norm(blocks_of(model)[-1])
    assert torch.equal(tokens, value[:, 1:]) and torch.equal(prefix, value[:, :1])


class Joined(models.Tokens):
    """The features also come from elsewhere than the last block, so that a norm is not all that lies between."""

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        first = x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos
        return torch.cat([self.norm(self.blocks(x)), first], 2)

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 5)


class Activated(models.Tokens):
    """Something follows the norm."""

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(super().embed(x))


@pytest.mark.parametrize("cls", (models.Tokens, models.PatchMean, models.TwoHeads, Joined, Activated))
def test_every_map_is_normed(cls):
    model, backbone = build(cls)
    expected = [to_map(model.norm(value)[:, 1:]) for value in blocks_of(model)]
    maps = backbone.forward_intermediates(IMAGE, norm=True, intermediates_only=True)
    assert all(map(torch.equal, maps, expected)) and len(maps) == 3
    pyramid = fxfeat.features_only(model, (-3, -1), norm=True, example_inputs=IMAGE)
    assert all(map(torch.equal, pyramid(IMAGE), (expected[0], expected[2])))


def test_a_pyramid_keeps_the_norm_of_its_model():
    model, _ = build(models.Tokens)
    pyramid = fxfeat.features_only(model, (0,), norm=True, example_inputs=IMAGE)
    assert pyramid.get_submodule("norm").weight is model.norm.weight
    assert "norm.weight" in pyramid.state_dict() and "blocks.1.norm.weight" not in pyramid.state_dict()


class Staged(models.Conv):
    """A norm of the last map alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(self.stem, self.stage1, self.stage2)
        self.norm = nn.GroupNorm(2, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stages(x))
        return self.fc(x.mean((2, 3)))


def test_a_norm_that_fits_one_level():
    model, backbone = build(Staged)
    level = model.stages(IMAGE)
    asks = (
        lambda **options: backbone.forward_intermediates(IMAGE, norm=True, intermediates_only=True, **options),
        lambda indices=None: fxfeat.features_only(model, indices, norm=True, example_inputs=IMAGE)(IMAGE),
    )
    for ask in asks:
        (normed,) = ask(indices=[-1])
        assert torch.equal(normed, model.norm(level))
        with pytest.raises(RequestError) as caught:
            ask()
        assert str(caught.value) == (
            "norm=True was asked for, and the final norm of Staged, 'norm', fits its last level, 2, and not level 0. "
            "Ask for the last alone, or leave norm out."
        )


def test_a_model_without_a_norm():
    model, backbone = build(models.Widened)
    asked = backbone.forward_intermediates(IMAGE, norm=True, intermediates_only=True)
    assert all(map(torch.equal, asked, backbone.forward_intermediates(IMAGE, intermediates_only=True)))
    with pytest.raises(RequestError) as caught:
        fxfeat.features_only(model, norm=True, example_inputs=IMAGE)
    assert str(caught.value) == ("norm=True was asked for, and Widened has no final norm that can be applied to a map.")


class Written(models.Tokens):
    """The norm is no module."""

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos
        return torch.cat([F.layer_norm(self.blocks(x), (8,)), x], 2)

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 5)


def test_a_norm_that_no_module_holds_is_not_left_out():
    _, backbone = build(Written)
    with pytest.raises(RequestError) as caught:
        backbone.forward_intermediates(IMAGE, norm=True)
    assert str(caught.value) == ("norm=True was asked for, and Written has no final norm that can be applied to a map.")


class MaskedBlock(models.Block):
    """A block that takes a mask."""

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor | None = None) -> torch.Tensor:
        y = self.norm(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=attn_mask)[0]
        return x + self.mlp(x)


class Masked(models.Tokens):
    """Attention takes a mask beside the image."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(MaskedBlock(8) for _ in range(3))

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor | None = None) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos
        for block in self.blocks:
            x = block(x, attn_mask)
        return self.head(self.norm(x)[:, 0])


def test_a_mask_is_passed_on():
    model, backbone = build(Masked)
    seen: list[torch.Tensor] = []
    hook = model.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for mask in (torch.rand(17, 17) > 0.5, torch.rand(17, 17) > 0.2):
        mask.fill_diagonal_(False)
        model(IMAGE, mask)
        last = backbone.forward_intermediates(IMAGE, [-1], attn_mask=mask, intermediates_only=True)[0]
        assert torch.equal(last, to_map(seen.pop()[:, 1:]))
        layer = backbone.get_intermediate_layers(IMAGE, reshape=True, attn_mask=mask)[0]
        assert torch.equal(layer, last)
    model(IMAGE)
    assert torch.equal(backbone.forward_intermediates(IMAGE, [-1])[1][0], to_map(seen.pop()[:, 1:]))
    hook.remove()


@pytest.mark.parametrize(
    ("given", "name"), (({"attn_mask": torch.ones(17, 17)}, "attn_mask"), ({"is_causal": True}, "is_causal"))
)
def test_a_mask_that_the_model_does_not_take(given, name):
    _, backbone = build(models.Tokens)
    with pytest.raises(RequestError) as caught:
        backbone.forward_intermediates(IMAGE, **given)
    assert str(caught.value) == f"Tokens.forward takes (x), and no {name}; leave it out."


def test_another_input_size():
    _, backbone = build(models.Tokens)
    with pytest.raises(RequestError) as caught:
        backbone.set_input_size((32, 32))
    assert str(caught.value) == (
        "set_input_size changes the model, and a Backbone was made of the model as it was. Call it on the model, then "
        "make Backbone(model) again."
    )
