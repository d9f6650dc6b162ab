"""Maps of the levels beside the features, and models cut behind a level."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn

from fxfeat import Backbone, FxfeatError, RequestError
from tests.backbone import models
from tests.backbone.build import build
from tests.backbone.models import IMAGE


@functools.cache
def climbed(cls: type[nn.Module]) -> tuple[nn.Module, Backbone]:
    """Build a pair whose levels have been found and run."""
    model, backbone = build(cls)
    backbone.forward_intermediates(IMAGE)
    return model, backbone


def fresh(cls: type[nn.Module]) -> tuple[nn.Module, Backbone]:
    return copy.deepcopy(climbed(cls))


def blocks_of(model: models.Tokens) -> list[torch.Tensor]:
    held: list[torch.Tensor] = []
    handles = [block.register_forward_hook(lambda m, i, result: held.append(result)) for block in model.blocks]
    model(IMAGE)
    for handle in handles:
        handle.remove()
    return held


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def to_map(tokens: torch.Tensor) -> torch.Tensor:
    return tokens[:, 1:].reshape(2, 4, 4, 8).permute(0, 3, 1, 2)


def test_all_blocks_of_a_flat_model():
    model, backbone = climbed(models.Tokens)
    features, maps = backbone.forward_intermediates(IMAGE)
    assert torch.equal(features, backbone.forward_features(IMAGE))
    assert len(maps) == 3
    assert all(map(torch.equal, maps, map(to_map, blocks_of(model))))
    assert [held["module"] for held in backbone.feature_info] == ["blocks.0", "blocks.1", "blocks.2"]


def test_all_levels_of_a_hierarchical_model():
    model, backbone = climbed(models.Conv)
    features, maps = backbone.forward_intermediates(IMAGE)
    assert torch.equal(features, backbone.forward_features(IMAGE))
    assert backbone.feature_info.reduction() == [2, 4, 8]
    assert backbone.feature_info.channels() == [4, 6, 8]
    assert torch.equal(maps[0], model.stem(IMAGE))
    assert torch.equal(maps[1], model.stage1(model.stem(IMAGE)))
    assert torch.equal(maps[2], features)


@pytest.mark.parametrize(
    ("indices", "expected"), ((1, [2]), (2, [1, 2]), ((2, 0), [0, 2]), ([-2], [1]), (None, [0, 1, 2]))
)
def test_indices_are_timms(indices, expected):
    _, backbone = climbed(models.Tokens)
    every = backbone.forward_intermediates(IMAGE, intermediates_only=True)
    maps = backbone.forward_intermediates(IMAGE, indices, intermediates_only=True)
    assert len(maps) == len(expected)
    assert all(torch.equal(held, every[index]) for held, index in zip(maps, expected, strict=True))


def test_the_final_norm_on_every_block():
    model, backbone = climbed(models.Tokens)
    maps = backbone.forward_intermediates(IMAGE, norm=True, intermediates_only=True)
    assert all(map(torch.equal, maps, (to_map(model.norm(held)) for held in blocks_of(model))))


def test_tokens_and_their_prefix():
    model, backbone = climbed(models.Tokens)
    pairs = backbone.forward_intermediates(IMAGE, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True)
    for (tokens, prefix), held in zip(pairs, blocks_of(model), strict=True):
        assert torch.equal(tokens, held[:, 1:])
        assert torch.equal(prefix, held[:, :1])


def test_a_dict():
    _, backbone = climbed(models.Tokens)
    features, maps = backbone.forward_intermediates(IMAGE, 2)
    found = backbone.forward_intermediates(IMAGE, 2, output_dict=True, return_prefix_tokens=True)
    assert list(found) == ["image_intermediates", "image_intermediates_prefix", "image_features"]
    assert torch.equal(found["image_features"], features)
    assert all(map(torch.equal, found["image_intermediates"], maps))
    assert [tuple(held.shape) for held in found["image_intermediates_prefix"]] == [(2, 1, 8)] * 2


def test_stopping_early_runs_no_later_block():
    model, backbone = fresh(models.Tokens)
    ran: list[int] = []
    for index, block in enumerate(backbone.blocks):
        block.register_forward_hook(lambda m, i, o, index=index: ran.append(index))
    features, maps = backbone.forward_intermediates(IMAGE, [1], stop_early=True)
    assert ran == [0, 1]
    assert torch.equal(features, model.norm(blocks_of(model)[1]))
    assert torch.equal(maps[0], to_map(blocks_of(model)[1]))


def test_a_hierarchical_model_stops_without_norm():
    model, backbone = climbed(models.Conv)
    features, _ = backbone.forward_intermediates(IMAGE, [0], stop_early=True)
    assert torch.equal(features, model.stem(IMAGE))


@pytest.mark.parametrize(
    ("indices", "message"),
    (
        (4, "indices=4 asks for the last 4 levels, and there are 3."),
        (0, "indices=0 asks for the last 0 levels, and there are 3."),
        ((0, 3), "indices=(0, 3) asks for level 3; there are 3: 0 to 2, or -3 to -1."),
        ((), "indices is (); it must be an int, several as in (2, -1), or None for all levels."),
        ("last", "indices is 'last'; it must be an int, several as in (2, -1), or None for all levels."),
    ),
)
def test_wrong_indices(indices, message):
    _, backbone = climbed(models.Tokens)
    for ask in (
        lambda: backbone.forward_intermediates(IMAGE, indices),
        lambda: backbone.prune_intermediate_layers(indices),
    ):
        with pytest.raises(RequestError) as caught:
            ask()
        assert str(caught.value) == message


def test_a_wrong_format():
    _, backbone = climbed(models.Tokens)
    with pytest.raises(RequestError) as caught:
        backbone.forward_intermediates(IMAGE, output_fmt="NCL")
    assert str(caught.value) == "output_fmt is 'NCL'; it must be one of 'NCHW', 'NHWC', 'NLC'."


def test_a_model_without_levels():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    backbone = Backbone(model, example_inputs=torch.rand(2, 4))
    assert backbone.num_features == 6
    with pytest.raises(FxfeatError) as caught:
        _ = backbone.feature_info
    assert str(caught.value) == (
        "A feature pyramid needs an image (N, C, H, W), a volume (N, C, D, H, W) or a signal (N, C, L), and Sequential "
        "takes input_1 of shape (2, 4). If it takes images too, pass example_inputs= with one."
    )


def test_levels_of_a_model_without_head():
    torch.manual_seed(0)
    encoder = nn.Sequential(
        *(nn.Sequential(nn.Conv2d(3 if not i else 4, 4, 3, 2, 1), nn.ReLU()) for i in range(3))
    ).eval()
    backbone = Backbone(encoder, example_inputs=IMAGE)
    features, maps = backbone.forward_intermediates(IMAGE)
    assert torch.equal(features, encoder(IMAGE))
    assert [tuple(held.shape[2:]) for held in maps] == [(8, 8), (4, 4), (2, 2)]


# -- pruning -----------------------------------------------------------------------------------------------------------


def test_pruning_a_flat_model():
    model, backbone = fresh(models.Tokens)
    blocks = blocks_of(model)
    before = count(backbone)
    assert backbone.prune_intermediate_layers((-2,)) == [1]
    assert count(backbone) == before - count(model.blocks[2]) - count(model.head)
    assert len(backbone.blocks) == 2
    assert isinstance(backbone.get_classifier(), nn.Identity)
    assert torch.equal(backbone(IMAGE), model.norm(blocks[1]))
    assert torch.equal(backbone.forward_features(IMAGE), model.norm(blocks[1]))
    assert all(map(torch.equal, backbone.forward_intermediates(IMAGE)[1], map(to_map, blocks[:2])))
    assert count(model) == before


def test_pruning_the_norm_as_well():
    model, backbone = fresh(models.Tokens)
    blocks = blocks_of(model)
    backbone.prune_intermediate_layers((1,), prune_norm=True)
    assert isinstance(backbone.norm, nn.Identity)
    assert torch.equal(backbone(IMAGE), blocks[1])


def test_pruning_all_but_the_head():
    model, backbone = fresh(models.Tokens)
    blocks = blocks_of(model)
    backbone.prune_intermediate_layers((0,), prune_head=False)
    assert torch.equal(backbone(IMAGE), model.head(model.norm(blocks[0])[:, 0]))
    assert torch.equal(backbone(IMAGE), backbone.forward_head(backbone.forward_features(IMAGE)))


def test_pruning_a_hierarchical_model():
    model, backbone = fresh(models.Conv)
    assert backbone.prune_intermediate_layers((0, 1), prune_head=False) == [0, 1]
    assert torch.equal(backbone(IMAGE), model.stage1(model.stem(IMAGE)))
    assert count(backbone) == count(model.stem) + count(model.stage1)
    assert backbone.num_features == 6
    assert list(backbone.state_dict()) == [name for name in model.state_dict() if name.startswith(("stem", "stage1"))]
    with pytest.raises(RequestError) as caught:
        backbone.reset_classifier(3)
    assert str(caught.value) == "The head was pruned; call reset_classifier before prune_intermediate_layers."


def test_pruning_only_the_head():
    model, backbone = fresh(models.Conv)
    features = backbone.forward_features(IMAGE)
    assert backbone.prune_intermediate_layers() == [2]
    assert torch.equal(backbone(IMAGE), features)
    assert count(backbone) == count(model) - count(model.fc)


def test_pruning_twice():
    model, backbone = fresh(models.Tokens)
    blocks = blocks_of(model)
    backbone.prune_intermediate_layers((1,))
    assert backbone.prune_intermediate_layers((0,)) == [0]
    assert torch.equal(backbone(IMAGE), model.norm(blocks[0]))
    assert count(backbone) == count(model) - count(model.blocks[1]) - count(model.blocks[2]) - count(model.head)
