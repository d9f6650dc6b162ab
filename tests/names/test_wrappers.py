"""Names are the same whatever a model, or a part of it, is wrapped in."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import fxfeat
from tests.oracle import same

X = torch.rand(2, 4)


def compiled(module):
    return torch.compile(module, backend="eager")


def part_compiled(module):
    return nn.Sequential(module[0], module[1], compiled(module[2]))


def part_parallel(module):
    return nn.Sequential(module[0], module[1], nn.DataParallel(module[2]))


WRAPPERS = [
    *(
        lambda module: module,
        compiled,
        nn.DataParallel,
        AveragedModel,
        lambda module: nn.DataParallel(compiled(module)),
    ),
    *(part_compiled, part_parallel),
]


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize(
    "name", ["2.0", "2.0@0", "module.2.0", "_orig_mod.2.0", "module._orig_mod.2.0", "2._orig_mod.0"]
)
def test_both_spellings(wrap, name):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.ReLU())).eval()
    values = fxfeat.create_feature_extractor(wrap(model), [name], example_inputs=X)(X)
    assert same(values[name], model[2][0](model[:2](X)))


def test_a_child_that_is_called_like_a_wrappers_part():
    model = nn.Sequential()
    model.add_module("module", nn.Linear(4, 4))
    model.add_module("0", nn.Linear(4, 4))
    values = fxfeat.create_feature_extractor(model, ["module", "0"], example_inputs=X)(X)
    assert same(values["module"], model.module(X))


def test_a_name_that_is_nowhere():
    with pytest.raises(fxfeat.NodeNotFoundError, match=r"^Sequential has no node or module 'module\.7' in eval mode\."):
        fxfeat.create_feature_extractor(nn.Sequential(nn.ReLU()).eval(), ["module.7"], example_inputs=X)


@pytest.mark.parametrize("engine", ["code", "tap"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda extractor: pickle.loads(pickle.dumps(extractor))])
def test_a_copy_of_an_extractor_of_a_wrapper(copied, engine):
    model = nn.DataParallel(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))).eval()
    x = torch.rand(2, 4)
    extractor = fxfeat.create_feature_extractor(model, ["module.0", "output"], example_inputs=x, engine=engine)
    values = copied(extractor)(x)
    assert torch.equal(values["module.0"], model.module[0](x)) and torch.equal(values["output"], model(x))
