"""Models inside ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile``."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import same

X = torch.randn(2, 3, 8, 8)
OTHER = torch.randn(3, 3, 6, 10)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))

    def forward(self, x):
        return self.block(self.stem(x)).mean((2, 3))


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=(tmp_path / "meeting").as_uri(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def check(wrapped, prefix, training):
    plain = getattr(wrapped, prefix)
    names = ["block.0", "block", "stem"]
    wrapped.train(training)
    extractor = fxfeat.create_feature_extractor(wrapped, [f"{prefix}.{name}" for name in names], example_inputs=X)
    before = {name: held.clone() for name, held in plain.state_dict().items()}
    for inputs in (X, OTHER):
        found = extractor(inputs)
        plain.load_state_dict(before)
        stem = plain.stem(inputs)
        first = plain.block[0](stem)
        expected = {"stem": stem, "block.0": first, "block": plain.block[1:](first.clone())}
        plain.load_state_dict(before)
        assert all(same(found[f"{prefix}.{name}"], expected[name]) for name in names)
        assert fxfeat.verify(wrapped, extractor, inputs).ok


@pytest.mark.parametrize("training", [False, True])
def test_data_parallel(training):
    check(nn.DataParallel(Model()), "module", training)


@pytest.mark.parametrize("training", [False, True])
def test_distributed_data_parallel(process_group, training):
    wrapped = nn.parallel.DistributedDataParallel(Model())
    check(wrapped, "module", training)
    wrapped.train()(X).sum().backward()
    assert wrapped.module.stem.weight.grad is not None


@pytest.mark.parametrize("training", [False, True])
def test_compiled(training):
    check(torch.compile(Model(), backend="eager"), "_orig_mod", training)


def test_compiled_in_place():
    model = Model().eval()
    model.compile(backend="eager")
    extractor = fxfeat.create_feature_extractor(model, ["block.0", "block"], example_inputs=X)
    assert fxfeat.verify(model, extractor, OTHER).ok


def test_the_report_names_the_wrapper():
    extractor = fxfeat.create_feature_extractor(nn.DataParallel(Model()), ["module.stem"], example_inputs=X)
    assert extractor.original == "DataParallel"


def test_hooks_on_a_wrapper_are_kept():
    wrapped, seen = nn.DataParallel(Model().eval()), []
    wrapped.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
    extractor = fxfeat.create_feature_extractor(wrapped, ["module.stem"], example_inputs=X)
    assert seen == []
    extractor(OTHER)
    assert seen == [(3, 3, 6, 10)]
