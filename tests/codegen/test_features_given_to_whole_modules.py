"""What is put on a module that runs whole, and would write to a feature that it is given, is noticed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxfeat

X = torch.randn(2, 4)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act = nn.Linear(4, 4), nn.ReLU()
        self.block, self.last = nn.Sequential(nn.Tanh(), nn.ReLU()), nn.Linear(4, 4)

    def forward(self, x):
        return self.last(self.block(self.act(self.first(x))))


def damp(module, args):
    args[0].mul_(0.5)


def halve(module, args):
    x = args[0]
    x *= 0.5


def put(module, args):
    args[0][:] = 0


def look(module, args):
    args[0].mean()


def replace(module, args):
    return (args[0] * 2,)


@pytest.mark.parametrize("hook", [damp, halve, put])
@pytest.mark.parametrize(("path", "kind", "name"), [("act", "ReLU", "first"), ("block.0", "Tanh", "act")])
def test_a_hook_that_writes_is_noticed(path, kind, name, hook):
    model = Net()
    extractor = fxfeat.create_feature_extractor(model, [name, "last"], example_inputs=X)
    extractor(X)
    model.get_submodule(path).register_forward_pre_hook(hook)
    with pytest.raises(fxfeat.GuardError) as caught:
        extractor(X)
    assert str(caught.value) == (
        f"A hook that writes to what it is given was put on {path!r} ({kind}) since the extractor was made: it would "
        "write to a value that is a feature. Create the extractor again, or set it back."
    )


@pytest.mark.parametrize(("path", "name"), [("act", "first"), ("block.1", "act")])
def test_a_flag_by_which_a_module_writes_is_noticed(path, name):
    model = Net()
    extractor = fxfeat.create_feature_extractor(model, [name, "last"], example_inputs=X)
    model.get_submodule(path).inplace = True
    with pytest.raises(fxfeat.GuardError) as caught:
        extractor(X)
    assert str(caught.value) == (
        f"'inplace' was set on {path!r} (ReLU) since the extractor was made: it would write to a value that is a "
        "feature. Create the extractor again, or set it back."
    )
    model.get_submodule(path).inplace = False
    extractor(X)


@pytest.mark.parametrize("hook", [look, replace])
def test_other_hooks_run_as_ever(hook):
    model = Net()
    extractor = fxfeat.create_feature_extractor(model, ["first", "last"], example_inputs=X)
    model.act.register_forward_pre_hook(hook)
    assert torch.equal(extractor(X)["last"], model(X))


def test_what_is_given_no_feature_may_write():
    model = Net()
    extractor = fxfeat.create_feature_extractor(model, ["last"], example_inputs=X)
    model.act.inplace = True
    model.block.register_forward_pre_hook(damp)
    assert torch.equal(extractor(X)["last"], model(X))
