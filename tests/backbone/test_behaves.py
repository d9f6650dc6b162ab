"""A backbone is the model: its parameters, names, modes, copies."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from fxfeat import Backbone, create_feature_extractor, features_only
from tests.backbone import models
from tests.backbone.build import build
from tests.backbone.models import IMAGE


@pytest.fixture
def pair():
    return build(models.Conv)


def test_it_computes_what_the_model_does(pair):
    model, backbone = pair
    assert torch.equal(backbone(IMAGE), model(IMAGE))


def test_it_shares_tensors_and_their_names(pair):
    model, backbone = pair
    assert list(backbone.state_dict()) == list(model.state_dict())
    held = dict(backbone.named_parameters())
    assert all(held[name] is parameter for name, parameter in model.named_parameters())


def test_the_model_is_not_changed(pair):
    model, backbone = pair
    before = copy.deepcopy(model)
    backbone.train()
    backbone.reset_classifier(0)
    backbone.prune_intermediate_layers((0,))
    assert not any(module.training for module in model.modules())
    assert repr(model) == repr(before)
    assert torch.equal(model(IMAGE), before(IMAGE))


@pytest.mark.parametrize("again", (copy.deepcopy, lambda backbone: pickle.loads(pickle.dumps(backbone))))
def test_copies(pair, again):
    model, backbone = pair
    features, levels = backbone.forward_intermediates(IMAGE)
    made = again(backbone)
    with torch.no_grad():
        backbone.fc.weight.zero_()
        backbone.stem[0].weight.zero_()
    assert torch.equal(made.forward_features(IMAGE), features)
    assert all(map(torch.equal, made.forward_intermediates(IMAGE)[1], levels))
    made.reset_classifier(0)
    assert torch.equal(made(IMAGE), features.mean((2, 3)))
    assert model.fc is not made.fc


def test_copies_of_what_was_changed(pair):
    _, backbone = pair
    backbone.prune_intermediate_layers((1,))
    made = pickle.loads(pickle.dumps(copy.deepcopy(backbone)))
    assert torch.equal(made(IMAGE), backbone(IMAGE))
    assert list(made.state_dict()) == list(backbone.state_dict())


def test_what_is_done_to_its_modules_is_done_to_all_its_parts(pair):
    _, backbone = pair
    backbone.double()
    image = IMAGE.double()
    assert backbone(image).dtype == torch.float64
    assert torch.equal(backbone.forward_head(backbone.forward_features(image)), backbone(image))
    assert [held.dtype for held in backbone.forward_intermediates(image)[1]] == [torch.float64] * 3
    backbone.fc = nn.Linear(8, 2).double()
    assert torch.equal(backbone.forward_head(backbone.forward_features(image)), backbone(image))
    assert backbone(image).shape == (2, 2)


def test_a_state_dict_is_loaded_into_all_its_parts(pair):
    model, backbone = pair
    torch.manual_seed(1)
    other = models.Conv().eval()
    backbone.load_state_dict(other.state_dict(), assign=True)
    assert torch.equal(backbone(IMAGE), other(IMAGE))
    assert torch.equal(backbone.forward_features(IMAGE), Backbone(other, example_inputs=IMAGE).forward_features(IMAGE))
    assert not torch.equal(model(IMAGE), other(IMAGE))


def test_levels_do_not_need_the_classifier(pair):
    model, backbone = pair
    backbone.reset_classifier(0, "")
    features, maps = backbone.forward_intermediates(IMAGE)
    assert torch.equal(features, backbone(IMAGE))
    assert torch.equal(maps[0], model.stem(IMAGE))


def test_gradients_reach_the_model(pair):
    model, backbone = pair
    backbone.forward_head(backbone.forward_features(IMAGE)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_attributes_of_the_model(pair):
    model, _ = pair
    model.kind = "small"
    backbone = Backbone(model, example_inputs=IMAGE)
    assert backbone.kind == "small"
    with pytest.raises(AttributeError):
        _ = backbone.missing


def test_wrappers_are_taken_off(pair):
    model, _ = pair
    backbone = Backbone(nn.DataParallel(model), example_inputs=IMAGE)
    assert list(backbone.state_dict()) == list(model.state_dict())
    assert torch.equal(backbone(IMAGE), model(IMAGE))


def test_a_backbone_of_a_backbone(pair):
    model, backbone = pair
    again = Backbone(backbone, example_inputs=IMAGE)
    assert again.split.why == backbone.split.why
    assert torch.equal(again.forward_features(IMAGE), backbone.forward_features(IMAGE))
    assert list(again.state_dict()) == list(model.state_dict())


def test_other_interfaces_take_a_backbone(pair):
    model, backbone = pair
    assert features_only(backbone, example_inputs=IMAGE).feature_info.module_name() == ["stem", "stage1", "act"]
    extractor = create_feature_extractor(backbone, ["stem"], example_inputs=IMAGE)
    assert torch.equal(extractor(IMAGE)["stem"], model.stem(IMAGE))
    assert torch.equal(torch.export.export(backbone, (IMAGE,)).module()(IMAGE), model(IMAGE))


def test_it_compiles(pair):
    _, backbone = pair
    features = backbone.forward_features(IMAGE)
    compiled = torch.compile(backbone.forward_features, backend="eager", fullgraph=True)
    assert torch.equal(compiled(IMAGE), features)


class FrozenNorms(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(16, 5)

    def train(self, mode=True):
        super().train(mode)
        self.stem[1].eval()
        return self

    def forward(self, x):
        return self.fc(self.pool(self.body(self.stem(x))).flatten(1))


def test_modes_are_those_that_the_models_own_train_sets():
    backbone = Backbone(FrozenNorms())
    for training in (True, False, True):
        backbone.train(training)
        assert backbone.training is training
        assert (backbone.stem[1].training, backbone.body[1].training) == (False, training)
    assert not backbone.eval().body[1].training
