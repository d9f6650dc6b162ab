"""Arguments that are neither tensors nor plain values."""

from __future__ import annotations

import collections
import copy
import dataclasses
import fractions
import functools
import types

import numpy as np
import pytest
import torch
from torch import nn

import fxfeat

X = torch.randn(2, 4)
LAYERS = [nn.Linear(4, 4), nn.Linear(4, 4)]


class Settings:
    def __init__(self, scale):
        self.scale = scale


class Uses(nn.Module):
    def __init__(self, use):
        super().__init__()
        self.linear, self.use = nn.Linear(4, 4), use

    def forward(self, x, given):
        return self.use(self.linear(x), given)


def cut(x, given):
    return x[:, given]


def times(x, given):
    return x * float(given)


def call(x, given):
    return given(x)


KINDS = {
    "slice": (cut, lambda: slice(0, 2), slice(1, 3)),
    "slices": (lambda x, given: x[given], lambda: (slice(None), slice(0, 2)), (slice(None), slice(1, 3))),
    "ellipsis": (lambda x, given: x[given], lambda: (0, ...), (1, ...)),
    "slice_in_a_dict": (lambda x, given: x[:, given["s"]], lambda: {"s": slice(0, 2)}, {"s": slice(1, 3)}),
    "range": (lambda x, given: x * sum(given), lambda: range(3), range(5)),
    "numpy_scalar": (times, lambda: np.float32(1), np.float32(3)),
    "numpy_double": (times, lambda: np.float64(1), np.float64(3)),
    "numpy_integer": (times, lambda: np.int64(1), np.int64(3)),
    "numpy_array": (lambda x, given: x * float(given.sum()), lambda: np.ones(2), np.ones(2) * 3),
    "fraction": (times, lambda: fractions.Fraction(1, 2), fractions.Fraction(3, 2)),
    "deque": (lambda x, given: x * sum(given), lambda: collections.deque([1]), collections.deque([3])),
    "namespace": (lambda x, given: x * given.k, lambda: types.SimpleNamespace(k=1), types.SimpleNamespace(k=3)),
    "settings": (lambda x, given: x * given.scale, lambda: Settings(1), Settings(3)),
    "memory_format": (
        lambda x, given: x * (2 if given == torch.contiguous_format else 3),
        lambda: torch.contiguous_format,
        torch.preserve_format,
    ),
    "module": (call, lambda: LAYERS[0], LAYERS[1]),
    "partial": (call, lambda: functools.partial(torch.mul, other=2), functools.partial(torch.mul, other=3)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_another_is_refused_and_one_like_it_is_taken(kind):
    use, make, other = KINDS[kind]
    model = Uses(use).eval()
    extractor = fxfeat.create_feature_extractor(model, ["linear", "output"], example_inputs=(X, make()))
    for _ in range(2):
        assert torch.equal(extractor(X, make())["output"], model(X, make()))
    with pytest.raises(fxfeat.GuardError):
        extractor(X, other)


def test_an_object_that_is_changed():
    settings = Settings(1)
    model = Uses(lambda x, given: x * given.scale).eval()
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=(X, settings))
    settings.scale = 3
    with pytest.raises(fxfeat.GuardError) as raised:
        extractor(X, settings)
    assert str(raised.value) == (
        "This input takes another path than the recorded one: at the call: `given holds what it held` the recording "
        "saw True, this input gives False. Create the extractor again with example_inputs= like this input."
    )


class Ignores(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, given):
        return self.linear(x)


def test_an_object_that_nothing_needs_may_be_any():
    extractor = fxfeat.create_feature_extractor(Ignores(), ["linear"], example_inputs=(X, Settings(1)))
    assert torch.equal(extractor(X, Settings(2))["linear"], extractor(X, None)["linear"])


class GoesThrough(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, given):
        total = 0
        for value in given.values():
            total = total * 2 + self.linear(value)
        return total


def test_the_order_of_a_dict():
    extractor = fxfeat.create_feature_extractor(GoesThrough(), ["output"], example_inputs=({"a": X, "b": X * 2},))
    with pytest.raises(fxfeat.GuardError) as raised:
        extractor({"b": X * 2, "a": X})
    assert "the call: `list(given) == ['a', 'b']` the recording saw ['a', 'b'], this input gives ['b', 'a']" in str(
        raised.value
    )


Pair = collections.namedtuple("Pair", "first second")


@dataclasses.dataclass
class Given:
    first: torch.Tensor
    scale: int = 2


class AsksWhatItIsGiven(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, given):
        if isinstance(given, Given):
            return self.linear(given.first * given.scale)
        return self.linear(given.first - given.second if hasattr(given, "_fields") else given[0] + given[1])


@pytest.mark.parametrize(("example", "name"), [(Pair(X, X + 1), "Pair"), (Given(X), "Given")])
def test_the_class_of_what_holds_tensors(example, name):
    model = AsksWhatItIsGiven().eval()
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=(example,))
    assert torch.equal(extractor(example)["output"], model(example))
    for other in ((X, X), X):
        with pytest.raises(fxfeat.GuardError, match=rf"`isinstance\(given, {name}\)` the recording saw True"):
            extractor(other)


class ReadsAMark(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        mask = getattr(x, "mask", None)
        return self.second(self.first(x)) if mask is None else self.first(x) * mask


@pytest.mark.filterwarnings("ignore:ReadsAMark runs whole")
def test_a_tensor_with_attributes_of_its_own():
    marked = copy.deepcopy(X)
    marked.mask = torch.tensor([[1.0], [0.0]])
    model = ReadsAMark().eval()
    extractor = fxfeat.create_feature_extractor(model, ["first", "output"], example_inputs=marked)
    assert extractor.tapped[0].reason == "'x' is a tensor with attributes of its own"
    marked.mask = marked.mask * 3
    assert torch.equal(extractor(marked)["output"], model(marked))
