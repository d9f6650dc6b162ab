"""Which parameters are trained, and whose they are."""

from __future__ import annotations

import pytest
import torch

import fxfeat
from tests.detection.models import IMAGE, Flat, Staged
from tests.oracle import frozen

SQUARE = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))


def parts(backbone):
    names = (name for name, held in backbone.body.named_parameters() if held.requires_grad)
    return sorted({name.partition(".")[0] for name in names})


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, []),
        (1, ["stage4"]),
        (3, ["stage2", "stage3", "stage4"]),
        (4, ["stage1", "stage2", "stage3", "stage4"]),
        (5, ["stage1", "stage2", "stage3", "stage4", "stem"]),
        (9, ["stage1", "stage2", "stage3", "stage4", "stem"]),
        (None, ["stage1", "stage2", "stage3", "stage4", "stem"]),
    ],
)
def test_the_last_levels_are_trained(count, expected):
    assert parts(fxfeat.fpn_backbone(Staged(), example_inputs=IMAGE, trainable_levels=count)) == expected


def test_levels_count_from_the_last_one_used():
    backbone = fxfeat.fpn_backbone(Staged(), (1, 2), example_inputs=IMAGE, trainable_levels=1)
    assert parts(backbone) == ["stage2"]
    assert not any(name.startswith(("stage3", "head")) for name in backbone.body.state_dict())


def test_a_flat_models_levels_are_its_blocks():
    backbone = fxfeat.fpn_backbone(Flat(), example_inputs=SQUARE, trainable_levels=2)
    trained = {name for name, held in backbone.body.named_parameters() if held.requires_grad}
    assert {name.rsplit(".", 1)[0][:8] for name in trained} == {"blocks.2", "blocks.3", "norm"}


def test_the_model_is_not_changed_and_its_memory_is_shared():
    model = Staged()
    with frozen(model), torch.random.fork_rng():  # the new layers draw their weights
        backbone = fxfeat.fpn_backbone(model, example_inputs=IMAGE, trainable_levels=2)
    body = backbone.body
    assert all(held.requires_grad for held in model.parameters())
    assert body.stage4[0][0].weight is model.stage4[0][0].weight
    assert body.stage1[0][0].weight is not model.stage1[0][0].weight
    assert body.stage1[0][0].weight.data_ptr() == model.stage1[0][0].weight.data_ptr()


def test_without_freezing_all_is_shared():
    model = Staged()
    body = fxfeat.fpn_backbone(model, example_inputs=IMAGE).body
    assert all(held is dict(model.named_parameters())[name] for name, held in body.named_parameters())


def test_parameters_that_no_map_depends_on_are_frozen_where_they_cannot_be_dropped():
    model = torch.nn.Sequential(Masked(), torch.nn.Conv2d(8, 8, 3, 2, 1))
    backbone = fxfeat.fpn_backbone(model, example_inputs=IMAGE)
    frozen_names = [name for name, held in backbone.body.named_parameters() if not held.requires_grad]
    assert frozen_names == ["0.mask_token"]
    assert model[0].mask_token.requires_grad
    sum(level.sum() for level in backbone(IMAGE).values()).backward()
    assert all(held.grad is not None for held in backbone.parameters() if held.requires_grad)


class Masked(torch.nn.Module):
    """Has a parameter that it uses when masks are given only, as masked autoencoders do."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, 2, 1)
        self.mask_token = torch.nn.Parameter(torch.zeros(8, 1, 1))

    def forward(self, x, mask=None):
        x = self.conv(x)
        return x if mask is None else torch.where(mask, self.mask_token, x)


@pytest.mark.parametrize("wrong", [-1, 1.5, True, "all"])
def test_wrong_numbers_of_levels(wrong):
    with pytest.raises(fxfeat.RequestError) as raised:
        fxfeat.fpn_backbone(Staged(), example_inputs=IMAGE, trainable_levels=wrong)
    assert str(raised.value) == (
        f"trainable_levels is {wrong!r}; it must be None (all) or the number of levels to train, counted from the "
        "last: 0 for none."
    )


def test_a_model_that_cannot_be_copied():
    model = Staged()
    model.lock = __import__("threading").Lock()
    fxfeat.fpn_backbone(model, example_inputs=IMAGE)
    with pytest.raises(fxfeat.RequestError, match=r"^Staged cannot be copied: TypeError: cannot pickle"):
        fxfeat.fpn_backbone(model, example_inputs=IMAGE, freeze_norm=True)
