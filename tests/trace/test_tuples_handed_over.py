"""A shape that is given to a call whole counts in the names of nodes as one that is given number by number."""

from __future__ import annotations

import torch
from torch import nn

import fxfeat


class Views(nn.Module):
    def forward(self, x):
        halves = (2, -1)
        wide = x.size()[:-1] + halves
        first, second = x.view(wide).unbind(1)
        return first + second


def test_names_count_the_numbers_of_a_shape():
    names, _ = fxfeat.get_graph_node_names(Views(), example_inputs=torch.zeros(2, 4))
    assert names == ["x", "view", "unbind", "getitem_4", "getitem_5", "add_1"]
