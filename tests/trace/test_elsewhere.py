"""Code of a model that stands in other files, or in methods of modules that are never called themselves."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import assert_equals_eager, assert_taps_equal_eager, eager, run, same
from tests.trace import elsewhere
from tests.trace.elsewhere import folded, seeded_noise

X = torch.randn(2, 4)
LONGER = torch.randn(5, 4)


class Opened(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.change(self.linear(x)))


class AddsSeededNoise(Opened):
    def change(self, x):
        return x + seeded_noise()


class ScalesByChance(Opened):
    def change(self, x):
        return elsewhere.scaled_by_chance(x)


class AsksAboutGradients(Opened):
    def change(self, x):
        return elsewhere.doubled_with_gradients(x)


class AddsUp(Opened):
    def change(self, x):
        return elsewhere.added_up(x)


class Folds(Opened):
    def change(self, x):
        return folded(x).reshape(-1, 4)


class Encoder(nn.Module):
    """It has no forward: others call a method of it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def encode(self, x):
        return self.linear(folded(x).reshape(-1, 4))


class CallsAMethod(Opened):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder()

    def change(self, x):
        return self.encoder.encode(x)


class Inherits(CallsAMethod):
    pass


def test_a_seed_that_another_file_sets_is_refused():
    with pytest.raises(fxfeat.TraceError) as refused:
        fxfeat.create_feature_extractor(AddsSeededNoise().eval(), ["head"], example_inputs=X, engine="code")
    assert_taps_equal_eager(AddsSeededNoise().eval(), ["head"], X)
    message = str(refused.value)
    assert message.startswith("In AddsSeededNoise, the code at ")
    assert message.endswith(": `manual_seed(3)` sets the random state. Ask for features outside what it leads to.")


def test_a_number_that_another_file_draws_is_drawn_anew():
    model = ScalesByChance().eval()
    random.seed(0)
    expected = [eager(model, held)["head"][0] for held in (X, X)]
    extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=X)
    random.seed(0)
    assert all(same(run(extractor, X)["head"], held) for held in expected)


def test_a_question_about_gradients_in_another_file_is_checked():
    model = AsksAboutGradients().eval()
    extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=X)
    assert torch.equal(extractor(X)["head"], model(X))
    with torch.no_grad(), pytest.raises(fxfeat.GuardError, match="is_grad_enabled"):
        extractor(X)


def test_a_range_over_a_size_in_another_file_is_checked():
    model = AddsUp().eval()
    extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=X)
    with pytest.raises(fxfeat.GuardError, match="for row in range"):
        extractor(LONGER)


@pytest.mark.parametrize("kind", [Folds, CallsAMethod, Inherits], ids=lambda kind: kind.__name__)
def test_leaf_functions_are_leaves_wherever_they_are_called(kind):
    torch.manual_seed(0)
    model = kind()
    assert_equals_eager(model, ["linear", "head"], X, LONGER)
    extractor = fxfeat.create_feature_extractor(model.eval(), ["head"], example_inputs=X)
    assert "rearrange(" in extractor.code
    assert extractor.guards == ()


def test_the_code_of_an_extractor_is_looked_at_as_well():
    model = CallsAMethod().eval()
    extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=X, flatten=True)
    again = fxfeat.create_feature_extractor(extractor, ["head"], example_inputs=X, flatten=True)
    assert again.code == extractor.code
