"""Places of a map, in the layouts that a value may hold it in."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fxfeat.vision.layout import Layout
from fxfeat.vision.token_layout import lay_out, nearest_layouts
from tests.vision.recorded import calls, record_small


@pytest.mark.parametrize(
    ("order", "shape", "of_place"),
    [("NCHW", (1, 5, 2, 3), (0, 4, 1, 0)), ("NHWC", (1, 2, 3, 5), (0, 1, 0, 4)), ("NLC", (1, 6, 5), (0, 3, 4))],
)
def test_each_number_has_that_of_its_place(order, shape, of_place):
    numbers = lay_out(torch.arange(6).view(2, 3), Layout(order, (2, 3), 5, (8.0, 8.0)), shape)
    assert numbers.shape == shape
    assert numbers[of_place] == 3


def test_layouts_come_nearest_first_and_end_at_maps():
    class Joined(nn.Module):
        def forward(self, x):
            early = x.sin()
            return early.cos().exp() + early.tan()

    nodes = calls(record_small(Joined(), torch.rand(1, 3, 4, 4)))
    layouts = {nodes[name]: Layout("NCHW", (4, 4), 3, (1.0, 1.0), prefix) for prefix, name in enumerate(("x", "cos"))}
    assert [layout.prefix for layout in nearest_layouts(nodes["add"], layouts)] == [1, 0]
    assert [layout.prefix for layout in nearest_layouts(nodes["exp"], layouts)] == [1]
    assert [layout.prefix for layout in nearest_layouts(nodes["cos"], layouts)] == [0]
