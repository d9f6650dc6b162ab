"""Strides past the limit go, and what lies downstream is dilated: traps, one tiny module each."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import fxfeat
from fxfeat.stride import limit_stride
from fxfeat.stride.dense import DenseAvgPool, DenseMaxPool, EndPaddedConv2d
from tests.stride.models import (
    Blur,
    BlurredBlock,
    Chain,
    Functional,
    Gated,
    Holder,
    SameConv2d,
    Shortcut,
    Sliced,
    Smoothed,
    Standardised,
    conv,
)

IMAGE = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def dense(model: nn.Module, output_stride: int) -> nn.Module:
    return limit_stride(model, output_stride, example_inputs=IMAGE)


def settings(layer) -> tuple:
    return layer.stride[0], layer.dilation[0], layer.padding[0]


def test_the_convolution_that_loses_its_stride_is_dilated_by_those_before_it_alone():
    changed = dense(Chain(), 2)
    assert settings(changed.a) == (2, 1, 1)
    assert settings(changed.b) == (1, 1, 1)
    assert settings(changed.c) == (1, 2, 2)
    assert settings(changed.d) == (1, 2, 4)
    assert settings(changed.e) == (1, 4, 4)


def test_a_limit_that_is_no_limit_changes_nothing():
    model = Chain()
    assert torch.equal(dense(model, 8)(IMAGE), model(IMAGE))
    assert repr(dense(model, 16)) == repr(model)


def test_a_convolution_of_one_position_is_not_dilated():
    changed = dense(Holder(conv(4, 4, stride=2), conv(4, 4, 1, stride=2)), 2)
    assert settings(changed.blocks[1]) == (1, 1, 0)


def test_parameters_and_buffers_are_shared_and_the_model_is_left_alone():
    model = nn.Sequential(conv(3, 4, stride=2), nn.BatchNorm2d(4), conv(4, 4, stride=2), nn.BatchNorm2d(4))
    before, shown = copy.deepcopy(model.state_dict()), repr(model)
    changed = dense(model, 2)
    assert list(changed.state_dict()) == list(model.state_dict())
    assert all(p is q for p, q in zip(model.parameters(), changed.parameters(), strict=True))
    assert all(p is q for p, q in zip(model.buffers(), changed.buffers(), strict=True))
    assert repr(model) == shown and model[2].stride == (2, 2)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_training_the_changed_model_trains_the_original():
    model = nn.Sequential(conv(3, 4, stride=2), nn.BatchNorm2d(4), conv(4, 4, stride=2))
    changed = dense(model, 2)
    changed.train()(IMAGE).sum().backward()
    assert model[2].weight.grad is not None
    assert int(model[1].num_batches_tracked) == 1


def test_the_modes_of_the_two_are_their_own():
    model = Chain().train()
    changed = dense(model, 2)
    assert changed.training
    changed.eval()
    assert model.training and model.a.training


def test_a_pooled_shortcut_stays_beside_its_convolution():
    model = Holder(Shortcut(), Shortcut())
    changed = dense(model, 4)
    assert isinstance(changed.blocks[1].pool, DenseAvgPool)
    inside = changed.blocks(changed.stem(IMAGE))[..., ::2, ::2]
    assert torch.allclose(inside, model.blocks(model.stem(IMAGE)), atol=1e-6)


def test_an_average_on_a_side_branch_is_not_dilated():
    changed = dense(Holder(Shortcut(), Shortcut()), 2)
    assert changed.blocks[1].pool.dilation == (1, 1)
    assert changed.blocks[1].conv1.dilation == (2, 2)


def test_an_average_on_the_trunk_is_dilated():
    changed = dense(Holder(nn.AvgPool2d(2), nn.AvgPool2d(2)), 2)
    assert changed.blocks[0].dilation == (1, 1)
    assert changed.blocks[1].dilation == (2, 2)


def test_an_average_behind_a_convolution_of_its_branch_goes_with_its_stride():
    changed = dense(Holder(Smoothed()), 2)
    assert isinstance(changed.blocks[0].smooth, nn.Identity)


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("ceil", [True, False])
def test_averages_keep_what_counts(counted, ceil):
    pools = [nn.AvgPool2d(3, 2, 1, ceil_mode=ceil, count_include_pad=counted) for _ in range(2)]
    model = nn.Sequential(conv(3, 4), *pools)
    image = torch.rand(1, 3, 33, 33)
    assert torch.allclose(dense(model, 1)(image)[..., ::4, ::4], model(image), atol=1e-6)


def test_a_divisor_of_an_average_is_kept():
    model = nn.Sequential(conv(3, 4), nn.AvgPool2d(2, divisor_override=3), nn.AvgPool2d(2, divisor_override=3))
    assert torch.allclose(dense(model, 1)(IMAGE)[..., ::4, ::4], model(IMAGE), atol=1e-6)


def test_a_blur_on_a_side_branch_keeps_its_filter():
    changed = dense(Holder(BlurredBlock(), BlurredBlock()), 2)
    assert [block.blur.stride for block in changed.blocks] == [1, 1]
    assert changed.blocks[1].blur.padding == [1, 1, 1, 1]
    assert type(changed.blocks[1].blur) is Blur


def test_a_blur_on_the_trunk_is_dilated():
    model = Holder(Blur(4), Blur(4)).double()
    image = IMAGE.double()
    changed = limit_stride(model, 2, example_inputs=image)
    assert torch.allclose(
        changed.blocks(changed.stem(image))[..., ::4, ::4], model.blocks(model.stem(image)), rtol=0, atol=1e-12
    )


def test_padding_worked_out_from_the_size_follows_the_settings():
    changed = dense(Holder(SameConv2d(4, 4, 3, 2), SameConv2d(4, 4, 3, 2)), 2)
    first, second = changed.blocks
    assert type(first) is SameConv2d
    assert (first.stride, first.dilation, second.stride, second.dilation) == ((1, 1), (1, 1), (1, 1), (2, 2))
    assert changed(IMAGE).shape[-2:] == (16, 16)


def test_a_layer_with_a_forward_of_its_own_gets_other_settings():
    changed = dense(Holder(Standardised(4, 4, 3, 2, 1), Standardised(4, 4, 3, 2, 1)), 2)
    assert type(changed.blocks[1]) is Standardised
    assert settings(changed.blocks[1]) == (1, 2, 2)


def test_even_patches_are_padded_at_the_end():
    model = Holder(nn.Conv2d(4, 4, 2, 2))
    changed = dense(model, 2)
    assert isinstance(changed.blocks[0], EndPaddedConv2d)
    assert changed.blocks[0].ends == (0, 1, 0, 1)
    assert changed(IMAGE).shape[-2:] == (16, 16)
    assert torch.allclose(
        changed.blocks(changed.stem(IMAGE))[..., ::2, ::2], model.blocks(model.stem(IMAGE)), atol=1e-6
    )


def test_dilated_even_patches_are_centred():
    changed = dense(Holder(nn.Conv2d(4, 4, 2, 2), nn.Conv2d(4, 4, 2, 2)), 2)
    assert settings(changed.blocks[1]) == (1, 2, 1)


def test_even_windows_with_padding_keep_their_first_element():
    model = nn.Sequential(conv(3, 4), nn.Conv2d(4, 4, 4, 2, 1), nn.Conv2d(4, 4, 4, 2, 1)).double()
    image = IMAGE.double()
    changed = limit_stride(model, 1, example_inputs=image)
    assert changed[2].ends == (2, 4, 2, 4)
    assert torch.allclose(changed(image)[..., ::4, ::4], model(image), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(3, 2)]
)
def test_max_pools_look_at_the_same_positions(pool):
    model = nn.Sequential(conv(3, 4), pool, pool.__class__(pool.kernel_size, 2, pool.padding, ceil_mode=pool.ceil_mode))
    changed = dense(model, 1)
    plain = model(IMAGE)
    picked = changed(IMAGE)[..., ::4, ::4][..., : plain.shape[-2], : plain.shape[-1]]
    assert torch.equal(picked, plain)


def test_a_max_pool_that_torch_cannot_slide_is_a_layer_of_its_own():
    changed = dense(Holder(nn.MaxPool2d(2)), 2)
    assert isinstance(changed.blocks[0], DenseMaxPool)


def test_padding_layers_grow_with_the_dilation():
    model = nn.Sequential(conv(3, 4, stride=2), nn.ZeroPad2d(1), nn.Conv2d(4, 4, 3), nn.ConstantPad2d(1, 2.0)).double()
    image = IMAGE.double()
    changed = limit_stride(nn.Sequential(conv(3, 3).double(), model), 1, example_inputs=image)
    assert changed[1][1].padding == (2, 2, 2, 2)
    assert changed[1][3].padding == (2, 2, 2, 2)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_modes_stay(mode):
    model = nn.Sequential(conv(3, 4), conv(4, 4, stride=2, padding_mode=mode), conv(4, 4, padding_mode=mode))
    changed = dense(model, 1)
    assert changed[2].padding_mode == mode
    assert changed(IMAGE).shape[-2:] == (32, 32)


def test_one_layer_called_twice_alike_stays_one():
    shared = conv(4, 4)
    changed = dense(Holder(conv(4, 4, stride=2), shared, shared), 2)
    assert changed.blocks[1] is changed.blocks[2]
    assert settings(changed.blocks[1]) == (1, 2, 2)


class CalledByTwoPaths(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.before, self.down = conv(3, 4, stride=2), conv(4, 4), conv(4, 4, stride=2)
        self.after = self.before

    def forward(self, x):
        x = self.before(self.stem(x))
        x = self.down(x)
        return self.after(x)


def test_one_layer_under_two_paths_gets_two_dilations_and_keeps_one_weight():
    model = CalledByTwoPaths()
    changed = dense(model, 2)
    assert settings(changed.before) == (1, 1, 1)
    assert settings(changed.after) == (1, 2, 2)
    assert changed.before.weight is changed.after.weight is model.after.weight
    assert list(changed.state_dict()) == list(model.state_dict())


class TwoHeads(nn.Module):
    """A branch that runs in train mode alone."""

    def __init__(self):
        super().__init__()
        self.stem, self.down = conv(3, 4, stride=2), conv(4, 4, stride=2)
        self.head, self.extra = conv(4, 4), conv(4, 4)

    def forward(self, x):
        x = self.down(self.stem(x))
        return (self.head(x), self.extra(x)) if self.training else self.head(x)


def test_a_branch_of_train_mode_is_dilated_too():
    changed = dense(TwoHeads().eval(), 2)
    assert settings(changed.extra) == (1, 2, 2)


def test_a_signal_has_one_axis():
    model = nn.Sequential(nn.Conv1d(2, 4, 3, 2, 1), nn.Conv1d(4, 4, 3, 2, 1), nn.Conv1d(4, 4, 3, padding=1))
    signal = torch.rand(1, 2, 64)
    changed = limit_stride(model, 2, example_inputs=signal)
    assert torch.allclose(changed(signal)[..., ::2], model(signal), atol=1e-6)


def test_a_video_has_three_axes():
    model = nn.Sequential(nn.Conv3d(2, 4, 3, 2, 1), nn.MaxPool3d((1, 2, 2)), nn.Conv3d(4, 4, 3, padding=1))
    clip = torch.rand(1, 2, 8, 16, 16)
    changed = limit_stride(model, 2, example_inputs=clip)
    assert changed[2].dilation == (1, 2, 2)
    assert torch.allclose(changed(clip)[..., ::2, ::2], model(clip), atol=1e-6)


def test_strides_of_more_than_the_limit_keep_what_fits():
    model = nn.Sequential(conv(3, 4, stride=2), nn.Sequential(conv(4, 4, stride=2)), conv(4, 4, 5, stride=4))
    changed = dense(model, 8 // 2)
    assert settings(changed[2]) == (1, 1, 2)


def test_squeeze_and_excite_is_left_alone():
    changed = dense(Holder(Gated(), Gated()), 2)
    assert settings(changed.blocks[1].conv) == (1, 2, 2)
    assert settings(changed.blocks[1].gate) == (1, 1, 0)


@pytest.mark.parametrize("make", [Chain, Functional, Sliced, lambda: Holder(nn.Conv2d(4, 4, 2, 2), nn.MaxPool2d(2))])
def test_what_comes_out_can_be_copied_saved_and_taken_apart(make):
    changed = dense(make().eval(), 2)
    expected = changed(IMAGE)
    assert torch.equal(copy.deepcopy(changed)(IMAGE), expected)
    assert torch.equal(pickle.loads(pickle.dumps(changed))(IMAGE), expected)
    names = [name for name, _ in changed.named_children()]
    extractor = fxfeat.create_feature_extractor(changed, [*names[:2], "output"], example_inputs=IMAGE)
    assert fxfeat.verify(changed, extractor, IMAGE).ok
    assert torch.equal(extractor(IMAGE)["output"], expected)


def test_other_sizes_run():
    changed = dense(Functional().eval(), 2)
    assert changed(torch.rand(1, 3, 48, 64)).shape == (1, 4, 24, 32)
