"""What ``functools.lru_cache`` keeps for a model's code is neither read nor left behind by a recording."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import assert_equals_eager, same

X = torch.randn(2, 4)
LONGER = torch.randn(2, 6)


@functools.lru_cache(maxsize=4)
def ramp(size, device, dtype):
    return torch.arange(size, device=device, dtype=dtype)


def caching(function):
    cached = functools.lru_cache(maxsize=4)(function)

    @functools.wraps(function)
    def call(*args):
        return cached(*args)

    return call


class CachedFunction(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = nn.Tanh()

    def forward(self, x):
        return self.act(x + ramp(x.shape[1], x.device, x.dtype))


class CachedInAnInnerFunction(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = nn.Tanh()

    def forward(self, x):
        return self.act(x + sum(ramp(x.shape[1], device, x.dtype) for device in [x.device]))


class CachedMethod(CachedFunction):
    def forward(self, x):
        return self.act(x + self.ramp(x.shape[1], x.device, x.dtype))

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def ramp(self, size, device, dtype):
        return torch.arange(size, device=device, dtype=dtype)


class CachedOnTheInstance(CachedFunction):
    def __init__(self):
        super().__init__()
        self.ramp = functools.lru_cache(None)(lambda size: torch.arange(size).float())

    def forward(self, x):
        return self.act(x + self.ramp(x.shape[1]))


class CachedInAClosure(CachedMethod):
    @caching
    def ramp(self, size, device, dtype):
        return torch.arange(size, device=device, dtype=dtype)


class MissingPackage:
    """Stands for a package that is not installed, as lazy imports do."""

    def __getattr__(self, name):
        if name == "__wrapped__":  # pytest asks everything in a file for it
            raise AttributeError(name)
        raise ImportError(f"no package for {name}")


missing = MissingPackage()


class NamesAMissingPackage(CachedFunction):
    def forward(self, x):
        if x.shape[0] > 9:
            return missing.run(x)
        return self.act(x)

    static = missing


def test_a_missing_package_is_left_alone():
    model = nn.Sequential(NamesAMissingPackage(), nn.Tanh())
    extractor = fxfeat.create_feature_extractor(model, ["1"], example_inputs=X)
    assert fxfeat.verify(model, extractor, X).ok


KINDS = [CachedFunction, CachedInAnInnerFunction, CachedMethod, CachedInAClosure, CachedOnTheInstance]


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_model_runs_as_before(kind, used):
    model = kind()
    expected = torch.tanh(X + torch.arange(4.0))
    if used:
        model(X)
    fxfeat.create_feature_extractor(model, ["act"], example_inputs=X)
    assert same(model(X), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_extractor_is_right_at_the_size_that_the_cache_was_asked_for(kind):
    assert_equals_eager(kind(), ["act"], X)
    extractor = fxfeat.create_feature_extractor(kind(), ["act"], example_inputs=X)
    with pytest.raises(fxfeat.GuardError):
        extractor(LONGER)


def test_a_cache_on_the_instance_is_left_empty():
    model = CachedOnTheInstance()
    fxfeat.create_feature_extractor(model, ["act"], example_inputs=X)
    assert model.ramp.cache_info().currsize == 0
