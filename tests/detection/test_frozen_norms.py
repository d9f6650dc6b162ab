"""``freeze_norm=True``: every batch norm, whatever its class and wherever it is, with the same numbers."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

import fxfeat
from fxfeat.detection.frozen_norms import FrozenBatchNorm, freeze_norms
from tests.detection.models import IMAGE, Staged
from tests.oracle import frozen


class ByParent(nn.BatchNorm2d):
    """Adds an activation with a parameter of its own to what the parent class does."""

    def __init__(self, width):
        super().__init__(width)
        self.act = nn.PReLU()

    def forward(self, x):
        return self.act(super().forward(x))


class ByFunction(nn.BatchNorm2d):
    """Calls the function itself, with its own tensors."""

    def forward(self, x):
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps)
        return F.silu(x)


class Tokens(nn.Module):
    """A norm of two axes inside a module that stays whole, after one of four."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8))
        self.stage = Whole()
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.stage(self.conv(x)).mean((2, 3)))


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(8, 8, 3, 2, 1)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        x = self.down(x)
        n, _, h, w = x.shape
        return self.norm(x.flatten(2).transpose(1, 2).flatten(0, 1)).reshape(n, h, w, 8).permute(0, 3, 1, 2)


def shake(model):
    """Give every norm numbers of its own."""
    for held in model.modules():
        if isinstance(held, nn.modules.batchnorm._BatchNorm):
            held.running_mean.normal_()
            held.running_var.uniform_(0.5, 2)
            nn.init.normal_(held.weight)
            nn.init.normal_(held.bias)
    return model


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, ByParent, ByFunction])
def test_frozen_in_train_mode_gives_what_the_model_gives_in_eval_mode(norm):
    model = shake(Staged(norm))
    expected = fxfeat.fpn_backbone(model, example_inputs=IMAGE).eval()
    backbone = fxfeat.fpn_backbone(model, example_inputs=IMAGE, freeze_norm=True).train()
    backbone.fpn.load_state_dict(expected.fpn.state_dict())
    with torch.no_grad():
        found, wanted = backbone(IMAGE), expected(IMAGE)
    for name in wanted:  # FrozenBatchNorm2d scales and shifts, where batch_norm subtracts the mean first
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("norm", "count"), [(nn.BatchNorm2d, 9), (ByParent, 9), (ByFunction, 9)])
def test_no_other_norms_are_left(norm, count):
    backbone = fxfeat.fpn_backbone(Staged(norm), example_inputs=IMAGE, freeze_norm=True)
    held = list(backbone.body.modules())
    assert sum(isinstance(module, FrozenBatchNorm2d) for module in held) == count
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in held)


def test_names_are_kept_and_weights_are_no_parameters():
    model = Staged(ByParent)
    body = fxfeat.fpn_backbone(model, example_inputs=IMAGE, freeze_norm=True).body
    expected = {name for name in model.state_dict() if "num_batches" not in name and not name.startswith("head")}
    assert set(body.state_dict()) == expected
    assert sorted(name for name, _ in body.named_parameters() if name.startswith("stem")) == [
        "stem.0.weight",
        "stem.1.act.weight",
    ]


def test_training_changes_no_frozen_number():
    model = shake(Staged(ByFunction))
    with frozen(model), torch.random.fork_rng():  # the new layers draw their weights
        backbone = fxfeat.fpn_backbone(model, example_inputs=IMAGE, freeze_norm=True)
    backbone.train()
    before = {name: held.clone() for name, held in backbone.body.named_buffers()}
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1)
    sum(level.square().mean() for level in backbone(IMAGE).values()).backward()
    optimizer.step()
    assert len(before) == 36
    assert all(torch.equal(held, before[name]) for name, held in backbone.body.named_buffers())


def test_a_norm_of_two_axes_in_a_whole_module():
    model = shake(Tokens())
    backbone = fxfeat.fpn_backbone(model, example_inputs=IMAGE, freeze_norm=True).train()
    assert isinstance(backbone.body.stage.norm, FrozenBatchNorm)
    level = backbone.body(IMAGE)[-1]
    model.eval()
    torch.testing.assert_close(level, model.stage(model.conv(IMAGE)))


def test_norms_without_statistics_stay():
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    assert freeze_norms(nn.Sequential(norm))[0] is norm


def test_a_norm_without_weights():
    model = nn.Sequential(nn.BatchNorm2d(4, affine=False)).double()
    x = torch.rand(2, 4, 3, 3, dtype=torch.float64)
    assert torch.equal(freeze_norms(model)(x), model.eval()(x))


def test_copies_and_moves_take_the_numbers_along():
    model = shake(nn.Sequential(ByFunction(4)))
    x = torch.rand(2, 4, 3, 3)
    expected = copy.deepcopy(model).eval()(x)
    made = freeze_norms(model).train()
    for held in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(held(x), expected)
        assert held.double()(x.double()).dtype == torch.float64
        held[0].running_mean.zero_()
        assert not torch.equal(held.float()(x), expected)
    assert torch.equal(made(x), expected)


def test_a_shared_norm_is_frozen_once():
    norm = nn.BatchNorm2d(4)
    made = freeze_norms(nn.Sequential(norm, norm))
    assert made[0] is made[1]
