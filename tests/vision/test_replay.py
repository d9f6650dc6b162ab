"""Recorded calls, run again on other values."""

from __future__ import annotations

import torch
from torch import nn

from fxfeat.ir.example import Example
from fxfeat.vision.replay import replay, run_call
from tests.vision.recorded import calls, record_small


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.rand(3))

    def forward(self, x):
        left, right = torch.cat([self.linear(x) * self.scale, x.sin()], 1).chunk(2, 1)
        return left + right


def test_every_node_is_run_on_real_values():
    model, x = Small(), torch.rand(2, 3)
    recording = record_small(model, torch.rand(2, 3))
    values = {}
    replay(recording, Example((x,)), lambda node, value: values.setdefault(node, value))
    torch.testing.assert_close(values[recording.result], model(x))


def test_what_a_visit_returns_is_gone_on_with():
    recording = record_small(Small(), torch.rand(2, 3))
    nodes = calls(recording)
    values = {}

    def visit(node, value):
        values[node] = torch.zeros_like(value) if node in (nodes["sin"], nodes["mul"]) else value
        return values[node]

    replay(recording, Example((torch.rand(2, 3),)), visit)
    assert not values[recording.result].any()


def test_a_call_is_run_alone_with_another_function():
    nodes = calls(record_small(Small(), torch.rand(2, 3)))
    ones = torch.ones(2, 3)
    assert torch.equal(run_call(nodes["sin"], lambda node: ones), ones.sin())
    assert torch.equal(run_call(nodes["sin"], lambda node: ones, torch.Tensor.cos), ones.cos())
