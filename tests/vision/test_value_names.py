"""Names of values."""

from __future__ import annotations

import torch
from torch import nn

import fxfeat
from fxfeat.names.table import name_nodes
from fxfeat.vision.value_names import name_operation, name_value
from tests.vision.recorded import calls, record_small


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

    def forward(self, x):
        once = self.block(x)
        return {"twice": self.block(once.sin()), "sum": once + x}


RECORDING = record_small(Named(), torch.rand(2, 3))
RETURNED = [call.result for call in RECORDING.module_calls if call.path == "block"]


def name(node, suits=lambda call: True):
    return name_value(RECORDING, node, name_nodes(RECORDING), suits)


def test_a_value_has_the_name_of_the_outermost_module_and_its_call():
    assert [name(node) for node in RETURNED] == ["block@0", "block@1"]


def test_modules_that_do_not_suit_lend_no_name():
    assert name(RETURNED[0], lambda call: call.path != "block") == "block.1@0"


def test_an_operation_has_its_own_name():
    node = calls(RECORDING)["sin"]
    assert name(node) == name_operation(RECORDING, node) == "sin"


def test_names_are_those_that_extractors_take():
    x, model = torch.rand(2, 3), Named()
    names = [name(node) for node in (*RETURNED, calls(RECORDING)["sin"])]
    assert list(fxfeat.create_feature_extractor(model, names, example_inputs=x)(x)) == names
