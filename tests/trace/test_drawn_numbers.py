"""Numbers that code draws from Python or NumPy: drawn anew at each call, and never a reason for a way through it."""

from __future__ import annotations

import pickle
import random
from random import uniform

import numpy as np
import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import assert_taps_equal_eager, eager, run, same

X = torch.randn(2, 4)
LONGER = torch.randn(5, 4)


class Opened(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.head = nn.Linear(4, 4), nn.Linear(4, 3)


class SkipsInTraining(Opened):
    def forward(self, x):
        y = self.linear(x)
        chance = np.random.uniform(0, 1)
        return self.head(y) if self.training and chance < 0.1 else self.head(y * 2)


class Scales(Opened):
    def forward(self, x):
        return self.head(self.linear(x) * random.uniform(0.5, 1.5))


class ScalesByNumPy(Opened):
    def forward(self, x):
        return self.head(self.linear(x) * np.random.uniform(0.5, 1.5) + np.random.randint(1, 100))


class ScalesByAnImportedName(Opened):
    def forward(self, x):
        return self.head(self.linear(x) * uniform(0.5, 1.5))


class DrawsUpToASize(Opened):
    def forward(self, x):
        return self.head(self.linear(x) + random.randrange(x.shape[0] * 100))


class DropsTheFirst(Opened):
    def forward(self, x):
        y = self.linear(x)
        random.random()
        return self.head(y * random.random())


class RollsByChance(Opened):
    def forward(self, x):
        return self.head(self.linear(x).roll(random.randint(0, 3), 1))


RIGHT = [Scales, ScalesByNumPy, ScalesByAnImportedName, DrawsUpToASize, DropsTheFirst, RollsByChance]


class DecidesByChance(Opened):
    def forward(self, x):
        y = self.linear(x)
        return self.head(y * 2 if random.random() * 2 < 1 else y)


class LooksUpByChance(Opened):
    def forward(self, x):
        return self.head(self.linear(x) * [0.5, 1.0, 2.0][random.randrange(3)])


class ChoosesByChance(Opened):
    def forward(self, x):
        return self.head(self.linear(x) * random.choice([0.5, 1.0, 2.0]))


class DrawsAnArray(Opened):
    def forward(self, x):
        return self.head(self.linear(x) + torch.from_numpy(np.random.rand(4)).float())


class RepeatsByChance(Opened):
    def forward(self, x):
        y = self.linear(x)
        for _ in range(random.randint(1, 3)):
            y = y * 2
        return self.head(y)


REFUSED = [DecidesByChance, LooksUpByChance, ChoosesByChance, DrawsAnArray, RepeatsByChance]


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = Scales(), DecidesByChance(), nn.Linear(3, 2)

    def forward(self, x):
        self.first(x)
        return self.head(self.second(x))


def seeded(call, *inputs):
    random.seed(1)
    np.random.seed(1)
    return [call(held) for held in inputs]


@pytest.mark.parametrize("kind", RIGHT, ids=lambda kind: kind.__name__)
def test_a_number_is_drawn_anew_at_each_call(kind):
    model = kind().eval()
    expected = seeded(lambda held: eager(model, held)["head"][0], X, X, LONGER)
    assert not same(expected[0], expected[1])
    extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=X)
    found = seeded(lambda held: run(extractor, held)["head"], X, X, LONGER)
    assert all(map(same, found, expected)), extractor.code


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_a_draw_that_leads_somewhere_is_refused(kind):
    with pytest.raises(fxfeat.TraceError) as refused:
        fxfeat.create_feature_extractor(kind().eval(), ["head"], example_inputs=X, engine="code")
    assert_taps_equal_eager(kind().eval(), ["head"], X)
    expected = (
        f"In {kind.__name__}, random numbers are drawn from Python or NumPy. Ask for features outside what it leads to."
    )
    assert str(refused.value) == expected


SKIPPED = """\
def forward(self, x):
    x = self.linear(x)
    x = x * 2
    head = self.head(x)
    return {'head': head}
"""
DRAWN_TWICE = """\
import random


def forward(self, x):
    x = self.linear(x)
    random.random()
    random_1 = random.random()
    x = x * random_1
    head = self.head(x)
    return {'head': head}
"""
DRAWN_BY_NUMPY = """\
import numpy as np


def forward(self, x):
    x = self.linear(x)
    uniform = np.random.uniform(0.5, 1.5)
    x = x * uniform
    randint = np.random.randint(1, 100)
    x = x + randint
    head = self.head(x)
    return {'head': head}
"""


@pytest.mark.parametrize(
    ("kind", "code"), [(SkipsInTraining, SKIPPED), (DropsTheFirst, DRAWN_TWICE), (ScalesByNumPy, DRAWN_BY_NUMPY)]
)
def test_the_code_draws_what_it_needs(kind, code):
    assert fxfeat.create_feature_extractor(kind().eval(), ["head"], example_inputs=X).code == code


def test_a_draw_that_decides_in_training_is_refused_there():
    with pytest.raises(fxfeat.TraceError, match=r"^In SkipsInTraining, random numbers are drawn from Python or NumPy"):
        fxfeat.create_feature_extractor(SkipsInTraining().train(), ["head"], example_inputs=X, engine="code")
    assert_taps_equal_eager(SkipsInTraining().train(), ["head"], X)


def test_the_graph_can_be_printed():
    extractor = fxfeat.create_feature_extractor(DropsTheFirst().eval(), ["head"], example_inputs=X)
    assert "random.random" in str(extractor.graph)


def test_a_copy_draws_from_the_same_state():
    extractor = fxfeat.create_feature_extractor(ScalesByNumPy().eval(), ["head"], example_inputs=X)
    again = pickle.loads(pickle.dumps(extractor))
    expected, found = (seeded(made, X, X) for made in (extractor, again))
    assert all(same(held["head"], other["head"]) for held, other in zip(found, expected, strict=True))


def test_a_draw_in_a_whole_module_comes_before_later_ones():
    model = Whole().eval()
    expected = seeded(lambda held: eager(model, held)["head"][0], X, X, LONGER)
    extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=X)
    assert all(map(same, seeded(lambda held: run(extractor, held)["head"], X, X, LONGER), expected))


def test_a_leaf_that_draws_does_not_make_its_parent_draw():
    model = Whole().eval()
    leaves = {"leaf_modules": [Scales, DecidesByChance]}
    expected = seeded(lambda held: eager(model, held)["head"][0], X, X, LONGER)
    extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=X, tracer_kwargs=leaves)
    assert all(map(same, seeded(lambda held: run(extractor, held)["head"], X, X, LONGER), expected))


@pytest.mark.parametrize("kind", [Scales, ScalesByNumPy, Whole], ids=lambda kind: kind.__name__)
def test_verify_gives_both_the_same_numbers(kind):
    model = kind().eval()
    extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=X)
    random.seed(2)
    before = random.getstate()
    assert fxfeat.verify(model, extractor, X).ok
    assert random.getstate() == before
