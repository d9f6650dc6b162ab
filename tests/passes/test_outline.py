"""Whole modules stay whole: the text of what is emitted, for tiny models and for one large one."""

from __future__ import annotations

import ast
import itertools

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import Bottleneck

import fxfeat
from fxfeat.ir.draft import Draft
from fxfeat.names.query import find
from fxfeat.names.request import select_feature
from fxfeat.names.table import name_nodes
from fxfeat.passes.run_passes import PASSES, rewrite
from fxfeat.trace.setup import read_setup, record_mode
from tests.oracle import assert_equals_eager, eager, run, same

IMAGE = torch.randn(2, 3, 8, 8)
LARGER = torch.randn(3, 3, 16, 12)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(self.conv(x)) + x


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 1)
        self.stages = nn.Sequential(Block(), Block())
        self.head = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        x = self.stages(x)
        return self.head(x).mean((2, 3))


class Leaks(nn.Module):
    """A value inside a block is used outside it without being returned."""

    def __init__(self):
        super().__init__()
        self.block = Keeps()
        self.head = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        y = self.block(x)
        return self.head(y + self.block.kept)


class Keeps(Block):
    def forward(self, x):
        self.kept = self.conv(x)
        return self.act(self.kept)


class TakesObject(nn.Module):
    """An argument that cannot be written down comes whole from the block that made it."""

    def __init__(self):
        super().__init__()
        self.make, self.use = Makes(), Uses()

    def forward(self, x):
        return self.use(self.make(x))


class Bag:
    def __init__(self, first, second):
        self.first, self.second = first, second


class Makes(Block):
    def forward(self, x):
        y = self.conv(x)
        return Bag(y, self.act(y))


class Uses(Block):
    def forward(self, bag):
        return self.conv(bag.first) - bag.second


class SharesSize(nn.Module):
    """A size read inside a block is used outside it."""

    def __init__(self):
        super().__init__()
        self.block = GivesSize()
        self.head = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        y, (h, w) = self.block(x)
        return nn.functional.interpolate(self.head(y), size=(h * 2, w * 2))


class GivesSize(Block):
    def forward(self, x):
        return self.conv(x), x.shape[2:]


def code_of(model, names, **options):
    return fxfeat.create_feature_extractor(model.eval(), names, example_inputs=IMAGE, **options).code


def test_a_stage_is_one_call():
    assert code_of(Model(), ["stages"]) == (
        "def forward(self, x):\n    x = self.stem(x)\n    stages = self.stages(x)\n    return {'stages': stages}\n"
    )


def test_only_what_a_feature_lies_in_is_opened():
    assert code_of(Model(), ["stages.0", "head"]) == (
        "def forward(self, x):\n"
        "    x = self.stem(x)\n"
        "    stages_0 = self.stages[0](x)\n"
        "    stages_1 = self.stages[1](stages_0)\n"
        "    head = self.head(stages_1)\n"
        "    return {'stages.0': stages_0, 'head': head}\n"
    )


def test_a_block_is_opened_for_a_value_inside_it():
    assert code_of(Model(), ["stages.1.conv", "output"]) == (
        "def forward(self, x):\n"
        "    x = self.stem(x)\n"
        "    x = self.stages[0](x)\n"
        "    stages_1_conv = self.stages[1].conv(x)\n"
        "    y = self.stages[1].act(stages_1_conv)\n"
        "    y = y + x\n"
        "    y = self.head(y)\n"
        "    output = y.mean((2, 3))\n"
        "    return {'stages.1.conv': stages_1_conv, 'output': output}\n"
    )


def test_the_last_operation_of_a_block_is_the_block():
    assert code_of(Model(), {"stages.1.add": "a"}) == (
        "def forward(self, x):\n    x = self.stem(x)\n    a = self.stages(x)\n    return {'a': a}\n"
    )


def test_the_input_alone():
    assert code_of(Model(), ["x"]) == "def forward(self, x):\n    return {'x': x}\n"


def test_flatten_writes_everything_out():
    code = code_of(Model(), ["stages"], flatten=True)
    assert code == (
        "def forward(self, x):\n"
        "    x = self.stem(x)\n"
        "    y = self.stages[0].conv(x)\n"
        "    y = self.stages[0].act(y)\n"
        "    y = y + x\n"
        "    x = self.stages[1].conv(y)\n"
        "    x = self.stages[1].act(x)\n"
        "    stages = x + y\n"
        "    return {'stages': stages}\n"
    )


def test_an_opened_module_keeps_nothing_it_does_not_need():
    extractor = fxfeat.create_feature_extractor(Model(), ["stages.0.conv"], example_inputs=IMAGE)
    assert [path for path, _ in extractor.named_modules()] == ["", "stem", "stages", "stages.0", "stages.0.conv"]


def test_nothing_is_opened_for_whole_modules():
    model = Model()
    extractor = fxfeat.create_feature_extractor(model, ["stages", "head"], example_inputs=IMAGE)
    assert extractor.emission.opened == ()
    assert extractor.stages is model.stages


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize(
    ("model", "names"),
    [
        (Model, ["stages.0", "stages.1.act", "output"]),
        (Leaks, ["block", "block.conv", "head"]),
        (TakesObject, ["make.conv", "use.conv", "use"]),
        (SharesSize, ["block[0]", "block.conv", "head", "output"]),
    ],
    ids=lambda case: getattr(case, "__name__", ""),
)
def test_values(model, names, flatten):
    assert_equals_eager(model(), names, IMAGE, LARGER, flatten=flatten)


def test_an_object_goes_from_block_to_block():
    assert code_of(TakesObject(), ["use"]) == (
        "def forward(self, x):\n    x = self.make(x)\n    use = self.use(x)\n    return {'use': use}\n"
    )


def test_a_value_that_leaks_opens_its_block():
    assert "self.block.conv(x)" in code_of(Leaks(), ["head"])
    assert "self.block(x)" in code_of(Leaks(), ["block"])


def test_the_passes_are_measured():
    setup = read_setup(Model(), None, None, IMAGE)
    recording = record_mode(setup, False)
    feature = select_feature(recording, find(recording, name_nodes(recording), "stages"), "stages")
    draft, steps = rewrite(Draft(recording, recording.graph, (feature,)))
    assert [step.name for step in steps] == [held.__name__ for held in PASSES]
    assert steps[0].before == len(recording.graph.nodes)
    assert steps[-1].after == len(draft.graph.nodes)
    assert all(left.after == right.before for left, right in itertools.pairwise(steps))
    assert [node.name for node in draft.graph.nodes] == ["x", "stem", "stages"]


@pytest.fixture(scope="module")
def resnet50():
    torch.manual_seed(0)
    return torchvision.models.resnet50()


def test_resnet50_is_what_an_expert_writes(resnet50):
    image = torch.randn(2, 3, 32, 32)
    names = ["layer1", "layer2", "layer3", "layer4"]
    extractor = fxfeat.create_feature_extractor(resnet50.eval(), names, example_inputs=image)
    assert extractor.code == (
        "def forward(self, x):\n"
        "    x = self.conv1(x)\n"
        "    x = self.bn1(x)\n"
        "    x = self.relu(x)\n"
        "    x = self.maxpool(x)\n"
        "    layer1 = self.layer1(x)\n"
        "    layer2 = self.layer2(layer1)\n"
        "    layer3 = self.layer3(layer2)\n"
        "    layer4 = self.layer4(layer3)\n"
        "    return {'layer1': layer1, 'layer2': layer2, 'layer3': layer3, 'layer4': layer4}\n"
    )
    assert len(ast.parse(extractor.code).body[0].body) <= 12
    assert not any(key.startswith("fc") for key in extractor.state_dict())
    assert isinstance(extractor.layer1[0], Bottleneck)
    seen, found = eager(resnet50, image), run(extractor, image)
    assert all(same(found[name], seen[name][0]) for name in names)


def test_resnet50_inside_a_block(resnet50):
    image = torch.randn(2, 3, 32, 32)
    names = ["layer1.0.relu", "layer1.0.relu_1", "layer1.0.conv3", "layer1.0.bn3", "layer1.1", "layer1"]
    extractor = fxfeat.create_feature_extractor(resnet50.eval(), names, example_inputs=image)
    assert isinstance(extractor.layer1[1], Bottleneck)
    found = run(extractor, image)
    seen = eager(resnet50, image)
    for name in names:
        path, call = ("layer1.0.relu", 1) if name == "layer1.0.relu_1" else (name, 0)
        assert same(found[name], seen[path][call]), name
