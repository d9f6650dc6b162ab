"""Every function that makes an extractor takes an engine."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import fxfeat
from fxfeat.cli.main import main
from tests.oracle import same

pytestmark = pytest.mark.filterwarnings("ignore:.*runs whole:UserWarning")
IMAGE = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
ENGINES = ("auto", "tap")
each_engine = pytest.mark.parametrize("engine", ENGINES)


class Stage(nn.Module):
    """Goes by a number that NumPy draws, between the layers that are wanted."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs)
        self.last = nn.Conv2d(outputs, outputs, 3, 1, 1)

    def forward(self, x):
        x = self.norm(self.conv(x))
        return self.last(torch.relu(x)) if np.random.uniform() < 2 else x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = nn.Sequential(Stage(3, 8), Stage(8, 16), Stage(16, 32))
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = self.stages(x)
        if np.random.uniform() < 2:
            x = torch.relu(x)
        return self.head(x.mean((2, 3)))


class PlainNet(Net):
    """Draws in its stages alone."""

    def forward(self, x):
        return self.head(torch.relu(self.stages(x)).mean((2, 3)))


@each_engine
def test_features_only(engine):
    model = Net().eval()
    pyramid = fxfeat.features_only(model, example_inputs=IMAGE, engine=engine)
    plain = [IMAGE]
    for stage in model.stages:
        plain.append(stage(plain[-1]))
    wanted = {tuple(level.shape): level for level in plain[1:]}
    for duplicate in (pyramid, copy.deepcopy(pyramid), pickle.loads(pickle.dumps(pyramid))):
        levels = duplicate(IMAGE)
        assert len(levels) >= 2
        assert all(same(level, wanted[tuple(level.shape)]) or level.min() >= 0 for level in levels)


@each_engine
@pytest.mark.parametrize("kind", [Net, PlainNet])
def test_backbone(engine, kind):
    model = kind().eval()
    backbone = fxfeat.Backbone(model, example_inputs=IMAGE, engine=engine)
    features = backbone.forward_features(IMAGE)
    assert same(backbone.forward_head(features), model(IMAGE))
    other, maps = backbone.forward_intermediates(IMAGE)
    assert same(other, features) and len(maps) == len(backbone.feature_info.channels())
    assert same(copy.deepcopy(backbone).forward_features(IMAGE), features)
    if kind is PlainNet:
        assert backbone.prune_intermediate_layers(1) == [len(maps) - 1]
        assert same(backbone.forward_features(IMAGE), features)


@each_engine
def test_fpn_backbone(engine):
    model = Net().eval()
    backbone = fxfeat.fpn_backbone(model, example_inputs=IMAGE, engine=engine)
    found = backbone(IMAGE)
    assert list(found)[-1] == "pool" and all(level.shape[1] == 256 for level in found.values())
    sum(level.sum() for level in found.values()).backward()
    assert model.stages[0].conv.weight.grad is not None


def test_the_command(capsys, tmp_path, monkeypatch):
    (tmp_path / "drawing.py").write_text(
        "import numpy as np, torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.first, self.last = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)\n"
        "    def forward(self, x):\n"
        "        x = self.first(x)\n"
        "        return self.last(x) if np.random.uniform() < 2 else x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    arguments = ["drawing:Net", "--nodes", "last", "--input-shape", "2,4"]
    assert main(["code", *arguments]) == 0
    assert "# Net runs whole: random numbers are drawn from Python or NumPy" in capsys.readouterr().out
    assert main(["verify", *arguments]) == 0
    assert "runs whole: the model (random numbers are drawn from Python or NumPy)" in capsys.readouterr().out
    assert main(["code", *arguments, "--engine", "code"]) == 2
    assert "drawn from Python or NumPy" in capsys.readouterr().err
    assert main(["code", *arguments, "--engine", "taps"]) == 2
    assert "auto" in capsys.readouterr().err


class DrawsBetween(Net):
    """Draws between its stages, which are its levels."""

    def forward(self, x):
        for stage in self.stages:
            x = stage(x)
            x = torch.relu(x) if np.random.uniform() < 2 else x
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("make", [fxfeat.features_only, fxfeat.Backbone, fxfeat.fpn_backbone])
def test_the_warning_names_the_line_that_asked(make):
    with pytest.warns(UserWarning, match="runs whole") as warned:
        make(DrawsBetween().eval(), example_inputs=IMAGE)
    assert {warning.filename for warning in warned} == {__file__}
