"""Classes with a ``train`` or ``eval`` of their own: an extractor's modes are those that they would have set."""

import copy
import pickle
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxfeat

X = torch.linspace(-1, 1, 24).reshape(6, 4)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.norm, self.drop = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.inner = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4))

    def forward(self, x):
        x = self.drop(self.norm(self.layer(x)))
        return F.dropout(self.inner(x), 0.5, self.training)


class FrozenNorm(Block):
    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self


class AllFrozen(Block):
    def train(self, mode=True):
        return super().train(False)


class FrozenInside(Block):
    def train(self, mode=True):
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.training = False
        return self


class ModeHidden(Block):
    def train(self, mode=True):
        super().train(mode)
        self.training = False
        return self


class ContainerFrozen(Block):
    def train(self, mode=True):
        super().train(mode)
        self.inner.eval()
        self.inner[1].train(mode)
        return self


class AlwaysDrops(Block):
    def train(self, mode=True):
        super().train(mode)
        self.drop.train()
        return self


class DropsInEval(Block):
    def eval(self):
        super().eval()
        self.drop.train()
        return self


def on_the_object():
    block = Block()

    def train(self, mode=True):
        nn.Module.train(self, mode)
        self.norm.eval()
        return self

    block.train = types.MethodType(train, block)
    return block


BLOCKS = [
    *(FrozenNorm, AllFrozen, FrozenInside, ModeHidden, ContainerFrozen, AlwaysDrops, DropsInEval),
    on_the_object,
]
PLACES = {
    "root": (lambda block: block, ""),
    "child": (lambda block: nn.Sequential(nn.Linear(4, 4), block), "1."),
    "deep": (lambda block: nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Sequential(block))), "0.1.0."),
}


def build(make, place):
    torch.manual_seed(0)
    around, prefix = PLACES[place]
    return around(make()), [f"{prefix}norm", f"{prefix}inner.0", "output"]


def run(model, names, extractor):
    """Return both results, each from the same buffers and random state, by copies that share nothing."""
    twin, follower = copy.deepcopy(model), copy.deepcopy(extractor)
    torch.manual_seed(1)
    expected = twin(X)
    torch.manual_seed(1)
    return expected, follower(X)["output"], twin.state_dict(), follower.state_dict()


def check(model, names, extractor):
    expected, actual, buffers, followed = run(model, names, extractor)
    assert torch.equal(actual, expected)
    assert all(torch.equal(value, buffers[name]) for name, value in followed.items())


def set_modes(module, way):
    module.eval() if way == "eval" else module.train(way)


@pytest.mark.parametrize(("engine", "flatten"), [("code", False), ("code", True), ("tap", False)])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("make", BLOCKS)
def test_modes_are_those_that_the_model_sets(make, place, flatten, engine):
    for way in (True, "eval", None):
        model, names = build(make, place)
        if way is not None:
            set_modes(model, way)
        extractor = fxfeat.create_feature_extractor(model, names, example_inputs=X, flatten=flatten, engine=engine)
        check(model, names, extractor)
        for next_way in (True, "eval", True):
            set_modes(extractor, next_way)
            set_modes(model, next_way)
            check(model, names, extractor)
            flags = {path: module.training for path, module in model.named_modules()}
            mine = {path: module.training for path, module in extractor.named_modules()}
            assert mine == {path: flags[path] for path in mine}


@pytest.mark.parametrize("make", BLOCKS)
def test_the_order_of_setting_model_and_extractor_is_free(make):
    model, names = build(make, "child")
    extractor = fxfeat.create_feature_extractor(model, names, example_inputs=X)
    for way in (True, "eval", True):
        set_modes(model, way)
        expected = {path: module.training for path, module in model.named_modules()}
        set_modes(extractor, way)
        mine = {path: module.training for path, module in extractor.named_modules()}
        assert mine == {path: expected[path] for path in mine}
        check(model, names, extractor)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_keep_to_it(copied):
    model, names = build(FrozenNorm, "child")
    extractor = copied(fxfeat.create_feature_extractor(model, names, example_inputs=X))
    assert not extractor.train().get_submodule("1.norm").training
    check(model.train(), names, extractor)


def test_a_modes_own_way_is_no_mixed_mode():
    model, names = build(FrozenNorm, "child")
    assert not fxfeat.create_feature_extractor(model.train(), names, example_inputs=X).is_mixed
    model[1].norm.train()
    assert fxfeat.create_feature_extractor(model, names, example_inputs=X).is_mixed


def test_train_false_is_not_eval_where_eval_is_its_own():
    model, names = build(DropsInEval, "root")
    extractor = fxfeat.create_feature_extractor(model.eval(), names, example_inputs=X)
    assert extractor.eval().get_submodule("drop").training
    assert not extractor.train(False).get_submodule("drop").training


def test_verify_sets_modes_likewise():
    model, names = build(FrozenNorm, "child")
    extractor = fxfeat.create_feature_extractor(model, names, example_inputs=X)
    for way in (True, "eval", True):
        set_modes(extractor, way)
        assert fxfeat.verify(model, extractor, X).ok
