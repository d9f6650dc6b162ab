"""Recordings on larger inputs."""

from __future__ import annotations

import torch
from torch import nn

from fxfeat.ir.example import Example
from fxfeat.trace.setup import read_setup, record_mode
from fxfeat.vision.larger_recording import enlarge, find_image_axes, find_length_axes, record_larger
from fxfeat.vision.shapes import shape_of

IMAGE = torch.rand(1, 3, 8, 8)


def larger(model, growths, suits=lambda recording: True):
    setup = read_setup(model, None, None, IMAGE)
    example = setup.examples[0]
    examples = (enlarge(example, find_image_axes(example), *growth) for growth in growths)
    return record_larger(setup, record_mode(setup, False), examples, suits)


class Picky(nn.Module):
    """Takes images that are square."""

    def forward(self, x):
        assert x.shape[2] == x.shape[3]
        return x.flatten(1)


def test_the_first_size_that_runs_is_taken():
    assert shape_of(larger(nn.Conv2d(3, 4, 1), ((3, 2), (2, 2))).nodes[0]) == (1, 3, 24, 16)
    assert shape_of(larger(Picky(), ((3, 2), (2, 2))).nodes[0]) == (1, 3, 16, 16)


def test_none_where_no_size_runs_or_suits():
    assert larger(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), ((3, 2), (2, 2))) is None
    assert larger(nn.Conv2d(3, 4, 1), ((3, 2),), suits=lambda recording: False) is None


def test_signals_have_lengths():
    groups = find_length_axes(Example((torch.rand(2, 3, 16),)))
    assert [group.name for group in groups] == ["length 1", "length 2"]
