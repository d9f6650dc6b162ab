"""Which sizes move together: masks beside tokens, graphs, height apart from width."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import fxfeat
from fxfeat.guards.vary_sizes import Outcome, vary_sizes
from fxfeat.inputs.resized import find_groups
from fxfeat.ir.example import Example
from tests.oracle import assert_equals_eager, same


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.embed = nn.Linear(8, 8), nn.Embedding(9, 8)
        self.conv = nn.Conv2d(1, 4, 3)


class Masked(Base):
    def attend(self, x, mask):
        return torch.softmax(x @ x.transpose(1, 2) + mask, -1) @ x

    def forward(self, x, mask):
        return self.head(self.attend(x, mask))


class MaskFirst(Masked):
    def forward(self, mask, x):
        return self.head(self.attend(x, mask))


class MaskedIds(Masked):
    def forward(self, ids, mask):
        return self.head(self.attend(self.embed(ids), mask))


class MaskOfHeads(Masked):
    def attend(self, x, mask):
        return torch.softmax((x @ x.transpose(1, 2))[:, None] + mask, -1).mean(1) @ x


class Crossed(Base):
    def forward(self, x, y, mask):
        return self.head(torch.softmax(x @ y.transpose(1, 2) + mask, -1) @ y)


class Adjacent(Base):
    def forward(self, x, adjacency):
        return self.head(adjacency @ x)


class Edges(Base):
    def forward(self, x, edges, weights):
        source, target = edges
        return self.head(torch.zeros_like(x).index_add_(0, target, x[source] * weights[:, None]))


class PixelMask(Base):
    def forward(self, x, mask):
        return self.conv(x * mask[:, None])


class Stateful(Base):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 6, 2, batch_first=True)

    def forward(self, x, hidden, cell):
        return self.lstm(x, (hidden, cell))[0] + 1


def tokens(batch, length, *mask):
    return torch.rand(batch, length, 8), torch.rand(*mask)


def ids(batch, length):
    return torch.randint(0, 9, (batch, length)), torch.rand(length, length)


def crossed(batch, length, other):
    return torch.rand(batch, length, 8), torch.rand(batch, other, 8), torch.rand(length, other)


def edges(nodes, count):
    return torch.rand(nodes, 8), torch.randint(0, nodes, (2, count)), torch.rand(count)


def states(batch, length):
    return torch.rand(batch, length, 8), torch.rand(2, batch, 6), torch.rand(2, batch, 6)


TOGETHER = {
    "a mask of two lengths": (Masked, tokens(2, 5, 5, 5), tokens(3, 5, 5, 5), tokens(2, 7, 7, 7)),
    "as many rows as tokens": (Masked, tokens(5, 5, 5, 5), tokens(3, 5, 5, 5), tokens(2, 7, 7, 7)),
    "as many tokens as features": (Masked, tokens(2, 8, 8, 8), tokens(3, 8, 8, 8), tokens(2, 7, 7, 7)),
    "the mask first": (MaskFirst, tokens(2, 5, 5, 5)[::-1], tokens(3, 5, 5, 5)[::-1], tokens(2, 7, 7, 7)[::-1]),
    "a mask beside ids": (MaskedIds, ids(2, 5), ids(3, 5), ids(2, 7)),
    "a mask of one head": (MaskOfHeads, tokens(2, 5, 1, 1, 5, 5), tokens(3, 5, 1, 1, 5, 5), tokens(2, 7, 1, 1, 7, 7)),
    "a mask of two sequences": (Crossed, crossed(2, 5, 6), crossed(3, 5, 6), crossed(2, 7, 4)),
    "nodes and adjacency": (Adjacent, (torch.rand(5, 8), torch.rand(5, 5)), (torch.rand(7, 8), torch.rand(7, 7))),
    "as many nodes as features": (Adjacent, (torch.rand(8, 8), torch.rand(8, 8)), (torch.rand(7, 8), torch.rand(7, 7))),
    "nodes and edges": (Edges, edges(5, 12), edges(7, 12), edges(5, 20), edges(9, 3)),
    "as many nodes as edges": (Edges, edges(5, 5), edges(7, 12), edges(5, 20), edges(9, 3)),
    "a mask of pixels": (
        PixelMask,
        (torch.rand(1, 1, 16, 16), torch.rand(1, 16, 16)),
        (torch.rand(2, 1, 20, 30), torch.rand(2, 20, 30)),
    ),
    "states by layer": (Stateful, states(3, 5), states(4, 5), states(3, 7)),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_sizes_that_belong_together_are_free_together(name):
    kind, example, *others = TOGETHER[name]
    assert_equals_eager(kind(), ["output"], example, *others)


def test_the_sides_of_a_mask_are_lengths():
    extractor = fxfeat.create_feature_extractor(Masked(), ["output"], example_inputs=tokens(2, 5, 5, 5))
    assert list(map(str, extractor.freedoms)) == [
        "x.shape[0] (batch 2) is free",
        "mask.shape[0] (length 5) is free",
        "x.shape[1] (length 5) is free",
        "mask.shape[1] (length 5) is free",
    ]


class FixedWidth(Base):
    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.rand(16))

    def forward(self, x):
        return self.conv(x + self.place)


class FixedHeight(FixedWidth):
    def forward(self, x):
        return self.conv(x + self.place[:, None])


class NormedWidth(Base):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x):
        return self.conv(self.norm(x.transpose(1, 3)).transpose(1, 3))


class UnseenWidth(Base):
    def forward(self, x):
        return self.conv(x * torch.tensor(np.linspace(0, 1, x.shape[3]), dtype=x.dtype))


@pytest.mark.parametrize("kind", [FixedWidth, NormedWidth, UnseenWidth])
def test_height_is_free_where_width_is_not(kind):
    assert_equals_eager(kind(), ["output"], torch.rand(1, 1, 20, 16), torch.rand(2, 1, 33, 16))


def test_width_is_free_where_height_is_not():
    assert_equals_eager(FixedHeight(), ["output"], torch.rand(1, 1, 16, 20), torch.rand(2, 1, 16, 33))


def error_of(model, example, other):
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=example)
    with pytest.raises(fxfeat.GuardError) as raised:
        extractor(other)
    return str(raised.value)


class FixedWidthAndAsks(FixedWidth):
    def forward(self, x):
        return super().forward(x) * x.shape[2]


def test_a_size_at_which_the_model_does_not_run_is_not_said_to_run_other_code():
    assert error_of(FixedWidthAndAsks(), torch.rand(1, 1, 20, 16), torch.rand(1, 1, 20, 1)) == (
        "This input takes another path than the recorded one: at x.shape[3]: `others of x.shape[3] were not found to "
        "run` the recording saw 16, this input gives 1. Create the extractor again with example_inputs= like this "
        "input."
    )


def test_code_that_asks_for_no_size_runs_wherever_the_model_does():
    assert_equals_eager(FixedWidth(), ["output"], torch.rand(1, 1, 20, 16), torch.rand(1, 1, 20, 1))


def test_a_size_at_which_other_code_runs():
    assert error_of(UnseenWidth(), torch.rand(1, 1, 20, 16), torch.rand(1, 1, 20, 17)) == (
        "This input takes another path than the recorded one: at x.shape[3]: `others of x.shape[3] were found to run "
        "other code` the recording saw 16, this input gives 17. Create the extractor again with example_inputs= like "
        "this input."
    )


class Counted(Base):
    """Goes by a size of its second input where nothing shows, and never by that of its first."""

    def __init__(self):
        super().__init__()
        self.scales = [float(count) for count in range(200)]

    def forward(self, x, y):
        return self.head(x) * y.sum() * self.scales[y.shape[1]]


def test_what_moved_with_a_layers_width_is_checked():
    model = Counted().eval()
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=(torch.rand(2, 8), torch.rand(2, 8)))
    with pytest.raises(fxfeat.GuardError):
        extractor(torch.rand(2, 8), torch.rand(2, 5))


class Differing(Base):
    """Goes by how two lengths differ."""

    def __init__(self):
        super().__init__()
        self.scales = [float(count) for count in range(200)]

    def forward(self, x, y):
        return self.head(x).sum(1) * self.scales[y.shape[1] - x.shape[1]] + y.sum()


def test_lengths_are_varied_apart_too():
    model = Differing().eval()
    example = torch.rand(2, 5, 8), torch.rand(2, 6, 8)
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=example)
    assert same(extractor(*example)["output"], model(*example))
    with pytest.raises(fxfeat.GuardError):
        extractor(torch.rand(2, 5, 8), torch.rand(2, 9, 8))


# -- which axes are varied ---------------------------------------------------------------------------------------------


def varied(example, outcome_of):
    """List the sizes that are tried, and how often, by what becomes of the code."""
    tried = []

    def vary(groups):
        tried.append(sorted(axis.dimension for group in groups for axis in group.axes))
        return outcome_of(tried[-1])

    vary_sizes(find_groups(Example(example)), {steps: tensor.dim() for steps, tensor in _given(example)}, vary)
    return tried


def _given(example):
    return [((("item", 0), ("item", index)), tensor) for index, tensor in enumerate(example)]


def test_an_image_is_varied_at_once():
    assert varied((torch.rand(1, 3, 8, 8),), lambda sizes: Outcome.SAME) == [[0, 2, 3], [1]]


def test_what_does_not_run_is_varied_apart():
    outcomes = {(1,): Outcome.FAILED, (0, 2, 3): Outcome.FAILED, (2, 3): Outcome.FAILED, (3,): Outcome.FAILED}
    tried = varied((torch.rand(1, 3, 8, 9),), lambda sizes: outcomes.get(tuple(sizes), Outcome.SAME))
    assert tried == [[0, 2, 3], [0], [2, 3], [1], [2], [3]]


def test_what_is_the_same_only_apart_is_other_code():
    groups = find_groups(Example((torch.rand(1, 3, 8, 8),)))

    def vary(tried):
        return Outcome.OTHER if len(tried) == 2 else Outcome.SAME

    outcomes = vary_sizes(groups, {groups[0].axes[0].steps: 4}, vary)
    assert [(group.name, outcome.name) for group, outcome in outcomes.items()] == [
        ("batch", "OTHER"),
        ("extent", "OTHER"),
        ("size 1 of [0][0]", "SAME"),
    ]


def test_a_batch_that_is_a_multiple():
    class Clips(nn.Module):
        """Takes frames one after the other, four to a clip."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            clips = x.view(x.shape[0] // 4, 4, *x.shape[1:])
            return self.conv((clips - clips.mean(1, keepdim=True)).flatten(0, 1))

    model = Clips().eval()
    extractor = fxfeat.create_feature_extractor(model, ["conv"], example_inputs=torch.rand(4, 4, 5, 5))
    x = torch.rand(12, 4, 5, 5)
    assert torch.equal(extractor(x)["conv"], model(x))
