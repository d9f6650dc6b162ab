"""State that Python keeps from one call to the next: right in modules that stay whole, right or refused in opened ones.

Which of the two is for fxfeat to say; a value that eager code would not give is wrong either way.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import random
import time
import warnings
import weakref

import numpy as np
import pytest
import torch
from torch import manual_seed, nn

import fxfeat
from tests.oracle import assert_equals_eager, eager, run, same

X = torch.randn(2, 4)
LONGER = torch.randn(5, 4)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)


class Counts(Base):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return self.head(self.linear(x) * self.calls)


class Appends(Base):
    def __init__(self):
        super().__init__()
        self.history: list[int] = []

    def forward(self, x):
        self.history.append(1)
        return self.head(self.linear(x) * len(self.history))


class KeepsTheLast(Base):
    last = None

    def forward(self, x):
        y = self.linear(x)
        z = y if self.last is None or self.last.shape != y.shape else y + self.last
        self.last = y.detach()
        return self.head(z)


class FillsACache(Base):
    def __init__(self):
        super().__init__()
        self.cache: dict[str, torch.Tensor] = {}

    def forward(self, x):
        if "mean" not in self.cache:
            self.cache["mean"] = x.mean()
        return self.head(self.linear(x) + self.cache["mean"])


class ReplacesInAList(Base):
    def __init__(self):
        super().__init__()
        self.sums = [torch.zeros(4)]

    def forward(self, x):
        self.sums[0] = self.sums[0] + 1
        return self.head(self.linear(x) + self.sums[0])


class ForgetsABuffer(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.full((4,), 3.0))

    def forward(self, x):
        y = self.linear(x)
        if self.scale is not None:
            y = y * self.scale
            self.scale = None
        return self.head(y)


class WritesTheBufferTable(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("sums", torch.zeros(4))

    def forward(self, x):
        self._buffers["sums"] = self._buffers["sums"] + x.sum(0)
        return self.head(self.linear(x) + self.sums)


class RegistersABuffer(Base):
    def forward(self, x):
        if not hasattr(self, "sums"):
            self.register_buffer("sums", torch.zeros(4))
        self.sums = self.sums + x.sum(0)
        return self.head(self.linear(x) + self.sums)


class Draws(Base):
    def forward(self, x):
        return self.head(self.linear(x) * random.random())


class SkipsByChance(Base):
    def forward(self, x):
        y = self.linear(x)
        return self.head(y * 2 if random.random() < 0.5 else y)


class DrawsWithNumPy(Base):
    def forward(self, x):
        return self.head(self.linear(x) * float(np.random.rand()))


class SeedsItself(Base):
    def forward(self, x):
        torch.manual_seed(3)
        return self.head(self.linear(x) + torch.randn(4))


class SeedsByAnImportedName(Base):
    def forward(self, x):
        manual_seed(3)
        return self.head(self.linear(x) + torch.randn(4))


class TakesTinyNumbersForZero(Base):
    def forward(self, x):
        torch.set_flush_denormal(True)
        y = self.linear(x) * 1e-20 * 1e-20 * 1e30
        torch.set_flush_denormal(False)
        return self.head(y * 1e10)


class ForksTheRandomState(Base):
    def forward(self, x):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            noise = torch.randn(4)
        return self.head(self.linear(x) + noise + torch.rand(4))


class MakesAGenerator(Base):
    def forward(self, x):
        generator = torch.Generator().manual_seed(3)
        return self.head(self.linear(x) + torch.randn(4, generator=generator))


_calls = 0


class CountsGlobally(Base):
    def forward(self, x):
        global _calls
        _calls += 1
        return self.head(self.linear(x) * _calls)


STATEFUL = [
    *(Counts, Appends, KeepsTheLast, FillsACache, ReplacesInAList, ForgetsABuffer, WritesTheBufferTable),
    *(RegistersABuffer, Draws, SkipsByChance, DrawsWithNumPy, SeedsItself, SeedsByAnImportedName),
    *(TakesTinyNumbersForZero, ForksTheRandomState, MakesAGenerator),
]


def seed():
    random.seed(1)
    np.random.seed(1)


def twins(model):
    reference = model()
    return reference, copy.deepcopy(reference)


def results(call, inputs):
    seed()
    return [call(held) for held in inputs]


@pytest.mark.parametrize("kind", STATEFUL, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("training", [False, True])
def test_an_opened_module_is_right_or_refused(kind, training):
    reference, mine = twins(kind)
    inputs = (X, X, LONGER, X)
    expected = results(lambda held: eager(reference.train(training), held)["head"][0], inputs)
    try:
        extractor = fxfeat.create_feature_extractor(mine.train(training), ["head"], example_inputs=X)
        found = results(lambda held: run(extractor, held)["head"], inputs)
    except fxfeat.FxfeatError as error:
        assert "test_python_state.py:" in str(error) or kind.__name__ in str(error)
        return
    assert all(map(same, found, expected)), extractor.code


@pytest.mark.parametrize("kind", STATEFUL, ids=lambda kind: kind.__name__)
def test_a_whole_module_keeps_its_state(kind):
    reference, mine = twins(lambda: nn.Sequential(kind(), nn.Linear(2, 2)).eval())
    inputs = (X, X, LONGER, X)
    expected = results(lambda held: eager(reference, held), inputs)
    extractor = fxfeat.create_feature_extractor(mine, ["0", "1"], example_inputs=X)
    found = results(lambda held: run(extractor, held), inputs)
    for mine_, theirs in zip(found, expected, strict=True):
        assert same(mine_["0"], theirs["0"][0])
        assert same(mine_["1"], theirs["1"][0])


def test_global_state_is_right_or_refused():
    global _calls
    model = CountsGlobally().eval()
    try:
        extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=X)
    except fxfeat.FxfeatError as error:
        assert "CountsGlobally" in str(error)
        return
    for _ in range(3):
        before = _calls
        expected = model(X)
        _calls = before
        assert same(extractor(X)["head"], expected), extractor.code


class Talks(Base):
    def forward(self, x):
        begun = time.perf_counter()
        print("forward")
        warnings.warn("forward", stacklevel=1)
        logging.getLogger(__name__).info("%s rows", x.shape[0])
        y = self.linear(x)
        self.took = time.perf_counter() - begun
        self.shape = tuple(y.shape)
        return self.head(y)


@pytest.mark.filterwarnings("ignore:forward")
def test_talking_and_timing_do_no_harm():
    assert_equals_eager(Talks(), ["linear", "head"], X, LONGER)


class RemembersAcrossSizes(Base):
    """The cache is made anew for each length, so its state does not show."""

    steps = None

    def forward(self, x):
        if self.steps is None or self.steps.shape[0] != x.shape[0]:
            self.steps = torch.arange(x.shape[0], dtype=x.dtype)[:, None]
        return self.head(self.linear(x) + self.steps)


def test_a_cache_of_what_the_sizes_say():
    assert_equals_eager(RemembersAcrossSizes(), ["linear", "head"], X, LONGER, X)


class ThroughAWeakReference(Base):
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(4, 4)
        self.refer()

    def refer(self):
        object.__setattr__(self, "reference", weakref.ref(self.other))

    def __deepcopy__(self, memo):
        twin = ThroughAWeakReference()
        twin.load_state_dict(self.state_dict())
        return twin

    def forward(self, x):
        return self.head(self.reference()(self.linear(x)))


@contextlib.contextmanager
def factor():
    yield 2.0


class Manages(Base):
    def forward(self, x):
        with factor() as scale, contextlib.suppress(ValueError), torch.profiler.record_function("scaled"):
            y = self.linear(x) * scale
            raise ValueError
        return self.head(y)


@pytest.mark.parametrize("kind", [ThroughAWeakReference, Manages], ids=lambda kind: kind.__name__)
def test_weak_references_and_context_managers(kind):
    names = ["linear", "other", "head"] if kind is ThroughAWeakReference else ["linear", "head"]
    assert_equals_eager(kind(), names, X, LONGER)


class EmptiesWhatHooksFill(nn.Module):
    """Catches inner values by hooks of its own, as many repositories do."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        self.head = nn.Linear(8, 2)
        self.inner: dict[str, torch.Tensor] = {}
        self.trunk[0].register_forward_hook(self.keep)
        self.trunk[2].register_forward_hook(self.keep)

    def keep(self, module, args, result):
        self.inner[f"{len(self.inner)}"] = result

    def forward(self, x):
        self.trunk(x)
        x = torch.cat([*self.inner.values()], -1)
        self.inner.clear()
        return self.head(x)


def test_what_a_call_fills_and_empties_again_is_no_setting():
    model = EmptiesWhatHooksFill().eval()
    extractor = fxfeat.create_feature_extractor(model, ["head"], example_inputs=X)
    for x in (X, LONGER, X):
        feature = extractor(x)["head"]
        model.inner.clear()
        assert same(feature, model(x))
    model.inner.clear()
    assert same(extractor(X)["head"], extractor(X)["head"])
