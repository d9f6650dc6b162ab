"""What has no dense counterpart is refused: whole messages."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxfeat import RequestError
from fxfeat.stride import limit_stride
from tests.stride.models import Chain, Holder, Merging, Placed, SameConv2d, Windowed, conv

IMAGE = torch.rand(2, 3, 32, 32)


def refusal(model: nn.Module, output_stride) -> str:
    with pytest.raises(RequestError) as caught:
        limit_stride(model, output_stride, example_inputs=IMAGE)
    return str(caught.value)


def past(name: str, reason: str) -> str:
    return (
        f"output_stride cannot be limited here: {name!r} lies past the limit, and {reason}. "
        "Ask for a larger output_stride, or for none."
    )


def down() -> nn.Module:
    return conv(4, 4, stride=2)


def test_a_limit_between_the_reductions():
    assert refusal(Chain(), 3) == (
        "output_stride=3 is no reduction of Chain, whose convolutions and pools leave maps reduced by 2, 4, 8. Pass "
        "one of these, for instance output_stride=2."
    )


def test_a_limit_below_the_stem():
    model = nn.Sequential(nn.Conv2d(3, 4, 4, 4), conv(4, 4, stride=2))
    assert refusal(model, 2) == (
        "output_stride=2 is no reduction of Sequential, whose convolutions and pools leave maps reduced by 4, 8. Pass "
        "one of these, for instance output_stride=4."
    )


def test_a_limit_that_is_no_number():
    assert refusal(Chain(), "8") == (
        "output_stride='8' is no reduction of Chain, whose convolutions and pools leave maps reduced by 2, 4, 8. Pass "
        "one of these, for instance output_stride=8."
    )


def test_a_model_without_windows():
    with pytest.raises(RequestError) as caught:
        limit_stride(nn.Linear(4, 3), 8)
    assert str(caught.value) == (
        "Linear has no convolution or pool that an image reaches, so there is no stride to limit."
    )


def test_patch_merging_by_slices():
    assert refusal(Holder(Merging()), 2) == past(
        "blocks.0.getitem_1",
        "it takes one of several shifted maps; without its stride it has no counterpart with the same weights",
    )


def test_patch_merging_by_unshuffling():
    model = Holder(nn.PixelUnshuffle(2), nn.Conv2d(16, 4, 1))
    assert refusal(model, 2) == past(
        "blocks.0",
        "it makes the map smaller in another way than by a stride; without its stride it has no counterpart with the "
        "same weights",
    )


class Reshaped(nn.Module):
    def forward(self, x):
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
        return x.reshape(n, 4 * c, h // 2, w // 2)


def test_patch_merging_by_reshaping():
    model = Holder(Reshaped(), nn.Conv2d(16, 4, 1))
    assert refusal(model, 2).startswith(
        "output_stride cannot be limited here: 'blocks.0.reshape_1' lies past the limit"
    )


def test_learned_positions():
    model = Holder(down(), down(), Placed())
    assert refusal(model, 4) == past("blocks.2.add", "it adds or multiplies values that exist for 4x4 positions only")


def test_windows():
    model = Holder(down(), down(), Windowed())
    assert refusal(model, 4) == past(
        "blocks.2.reshape", "it cuts positions into windows, which would each see less of the image"
    )


def test_windows_before_the_limit_are_no_trouble():
    model = Holder(down(), Windowed(), down())
    assert limit_stride(model, 4, example_inputs=IMAGE)(IMAGE).shape[-1] == 8


def test_upsampling_of_what_stays_dense():
    model = Holder(down(), nn.Upsample(scale_factor=2))
    assert refusal(model, 2) == past(
        "blocks.1", "it upsamples by a fixed factor what is no longer downsampled before it"
    )


class Returns(nn.Module):
    """Goes back to the size of the image, whatever that is."""

    def __init__(self):
        super().__init__()
        self.body, self.last = Holder(down(), down()), conv(4, 4)

    def forward(self, x):
        return self.last(F.interpolate(self.body(x), size=x.shape[-2:], mode="bilinear"))


def test_upsampling_to_the_size_of_another_value_is_no_trouble():
    changed = limit_stride(Returns(), 2, example_inputs=IMAGE)
    assert changed(IMAGE).shape[-2:] == (32, 32)
    assert changed.last.dilation == (1, 1)


class Cropped(nn.Module):
    def forward(self, x):
        return x[:, :, 1:, 1:]


def test_crops_behind_a_removed_stride():
    model = Holder(down(), Cropped())
    assert refusal(model, 2) == past("blocks.1.getitem", "it cuts off a fixed number of positions")


class Mixes(nn.Module):
    """A linear layer over positions."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(16, 16)

    def forward(self, x):
        return self.mix(x.flatten(2)).reshape(x.shape)


def test_weights_for_so_many_positions():
    model = Holder(down(), down(), Mixes())
    assert refusal(model, 4) == past("blocks.2.mix", "it mixes positions with weights for exactly 16 of them")


class Fixed(nn.Module):
    """Bound to its size in a way that only running it shows."""

    def forward(self, x):
        return x * torch.ones(4, device=x.device).reshape(1, 1, 2, 2).repeat(1, 1, 2, 2).cumsum(-1)


def test_what_does_not_run_on_a_finer_map():
    model = Holder(down(), down(), nn.Flatten(2), nn.Softmax(-1), nn.Unflatten(2, (4, 4)))
    message = refusal(model, 4)
    assert message.startswith(
        "output_stride cannot be limited here: 'blocks.4' does not run on the finer maps that this gives, so it is "
        "bound to their size. Ask for a larger output_stride, or for none. Holder could not be recorded"
    )


def test_one_module_at_two_strides():
    shared = down()
    assert refusal(Holder(shared, shared), 2) == (
        "output_stride cannot be limited here: 'blocks.0' is one module that is called more than once, and its calls "
        "would need different strides or dilations. Give the model a module of its own for each call, or ask for a "
        "larger output_stride."
    )


def test_indices_of_maxima():
    model = Holder(nn.Sequential(nn.MaxPool2d(2, return_indices=True), TakeFirst()))
    assert refusal(model, 2) == past(
        "blocks.0.0", "it returns the indices of its maxima, which mean other positions in a dense map"
    )


class TakeFirst(nn.Module):
    def forward(self, x):
        return x[0]


class SameStride(SameConv2d):
    """Works its padding out from a number in its code."""

    def forward(self, x):
        total = max((-(-x.shape[-1] // 2) - 1) * 2 + 3 - x.shape[-1], 0)
        amounts = [total // 2, total - total // 2] * 2
        return F.conv2d(F.pad(x, amounts), self.weight, self.bias, 2)


def test_padding_worked_out_from_a_stride_that_is_no_setting():
    model = Holder(SameStride(4, 4, 3, 1))
    assert refusal(model, 2) == past(
        "blocks.0.conv2d", "its padding is worked out from a stride that is no setting of its module"
    )


def test_the_model_comes_back_as_it_was_after_a_refusal():
    model = Holder(down(), down(), Placed()).train()
    shown = repr(model)
    refusal(model, 4)
    assert repr(model) == shown and model.training
