"""A feature that its module hands out is had of that module whole, as long as the module does nothing more to it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fxfeat import GuardError, create_feature_extractor
from tests.oracle import eager, same_value

X = torch.randn(2, 4)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.act = nn.Tanh()
        self.scale = None

    def forward(self, x):
        x = self.act(self.fc(x))
        if self.scale is not None:
            x = x * self.scale
        return x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()
        self.stage = nn.Sequential(nn.Linear(4, 4), Block())
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.stage(self.block(x)))


CHANGES = {
    "flag": ("block.act", lambda model: setattr(model.block, "scale", 2.0)),
    "hook": ("block.act", lambda model: model.block.register_forward_hook(lambda module, args, out: out * 2)),
    "forward": ("block.act", lambda model: setattr(model.block, "forward", lambda x: x)),
    "one more layer": ("stage.1.act", lambda model: model.stage.append(nn.ReLU())),
    "flag of an inner module": ("stage.1.act", lambda model: setattr(model.stage[1], "scale", 2.0)),
}


@pytest.mark.parametrize(("name", "change"), CHANGES.values(), ids=CHANGES)
def test_what_the_module_would_do_besides_is_an_error(name, change):
    model = Net().eval()
    extractor = create_feature_extractor(model, [name], example_inputs=X)
    assert "self.block(x)" in extractor.code
    change(model)
    with pytest.raises(GuardError, match=name.rpartition(".")[0].split(".")[0]):
        extractor(X)


@pytest.mark.parametrize("name", ["block", "stage.1", "stage"])
def test_what_was_asked_for_itself_follows_its_flags(name):
    model = Net().eval()
    extractor = create_feature_extractor(model, [name], example_inputs=X)
    model.block.scale = 2.0
    model.stage[1].scale = 3.0
    assert same_value(extractor(X)[name], eager(model, X)[name][0])


@pytest.mark.parametrize("names", [["output"], ["0", "output"]])
def test_the_output_follows_what_its_last_part_does(names):
    model = nn.Sequential(nn.Linear(4, 4), Block()).eval()
    extractor = create_feature_extractor(model, names, example_inputs=X)
    model[1].scale = 2.0
    assert torch.equal(extractor(X)["output"], model(X))


def test_other_layers_in_place_of_inner_ones_are_followed():
    model = Net().eval()
    extractor = create_feature_extractor(model, ["block.act"], example_inputs=X)
    model.block.act = nn.ReLU()
    assert torch.equal(extractor(X)["block.act"], model.block.fc(X).relu())
