"""What one mode, or one call, leaves in Python for another is followed: modules by which it goes run whole."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxfeat
from tests.oracle import eager, pick, run, same, same_value

X = torch.rand(4, 8)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 4), nn.Linear(4, 4)
        self.ready, self.mean, self.scale, self.seen, self.steps = False, 0.0, None, [], 0
        self.register_buffer("center", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.go(self.first(x)))

    def go(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class Flag(Net):
    def go(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.center.copy_(x.detach().mean(0))
            self.ready = True
            return x
        return x - self.center if self.ready else x


class Average(Net):
    def go(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean().item()
            return x
        return x - self.mean


class Tensor(Net):
    def go(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.scale = x.detach().std(0)
            return x
        return x if self.scale is None else x / self.scale


class Bag(Net):
    def go(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.append(x.detach().mean(0))
            return x
        return x - torch.stack(self.seen).mean(0) if self.seen else x


class Counter(Net):
    def go(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.steps += 1
        return x / (1 + self.steps)


class Tempered(nn.Module):
    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x / self.temperature).softmax(-1)


class SetsByMode(Net):
    temperature = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.part = Tempered(self.temperature)

    def go(self, x: torch.Tensor) -> torch.Tensor:
        self.part.temperature = 2.0 if self.training else 0.5
        return self.part(x)


class SetsByModeFromTheOther(SetsByMode):
    temperature = 2.0


class SetsARate(Net):
    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Dropout(0.1)

    def go(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.part.p = 0.5
        else:
            self.part.p = 0.1
        return self.part(x)


class Cached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.kept = nn.Parameter(torch.randn(4, 4)), None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kept is None:
            self.kept = F.normalize(self.weight, dim=1)
        return F.linear(x, self.kept)


class DropsACache(Net):
    def __init__(self) -> None:
        super().__init__()
        self.part = Cached()

    def go(self, x: torch.Tensor) -> torch.Tensor:
        self.part.kept = None
        return self.part(x)


class Locked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mask = None

    def reset(self) -> None:
        self.mask = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.mask is None:
            self.mask = torch.empty(x.shape[-1]).bernoulli_(0.5)
        return x * self.mask


class ResetsAMask(Net):
    def __init__(self) -> None:
        super().__init__()
        self.part = Locked()

    def go(self, x: torch.Tensor) -> torch.Tensor:
        self.part.reset()
        return self.part(x) + self.part(2 * x)


class DrawsOnce(Net):
    def go(self, x: torch.Tensor) -> torch.Tensor:
        if self.scale is None:
            self.scale = torch.randn(4, 4)
        return x @ self.scale


class Normed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.rate, self.rates = nn.BatchNorm1d(4), nn.Dropout(0.1), 0.5, [0.5]

    def go(self, x: torch.Tensor) -> torch.Tensor:
        return self.then(self.drop(self.norm(x)))

    def then(self, x: torch.Tensor) -> torch.Tensor:
        return x


class SetsMomentum(Normed):
    def then(self, x: torch.Tensor) -> torch.Tensor:
        self.norm.momentum = 0.9
        return x


class HalvesMomentum(Normed):
    def then(self, x: torch.Tensor) -> torch.Tensor:
        self.norm.momentum *= 0.5
        return x


class HalvesMomentumInTraining(Normed):
    def then(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.norm.momentum *= 0.5
        return x


class FreezesANorm(Normed):
    def then(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.norm.eval()
        return x


class DropsMore(Normed):
    def then(self, x: torch.Tensor) -> torch.Tensor:
        self.drop.p = min(0.9, self.drop.p + 0.2)
        return x


class HasARate(Normed):
    def go(self, x: torch.Tensor) -> torch.Tensor:
        self.rate *= 0.5
        return F.batch_norm(x, self.norm.running_mean, self.norm.running_var, None, None, self.training, self.rate)


class HasARateInAList(Normed):
    def go(self, x: torch.Tensor) -> torch.Tensor:
        self.rates[0] *= 0.5
        return F.batch_norm(x, self.norm.running_mean, self.norm.running_var, None, None, self.training, self.rates[0])


KINDS = [
    *(SetsMomentum, HalvesMomentum, HalvesMomentumInTraining, FreezesANorm, DropsMore, HasARate, HasARateInAList),
    *(Flag, Average, Tensor, Bag, Counter, SetsByMode, SetsByModeFromTheOther, SetsARate),
    *(DropsACache, ResetsAMask, DrawsOnce),
]


@pytest.mark.parametrize("created", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_in_python_is_followed(kind: Callable[[], Net], created: bool) -> None:
    torch.manual_seed(0)
    mine = kind().train(created)
    reference = copy.deepcopy(mine)
    with pytest.warns(UserWarning, match="runs whole"):
        extractor = fxfeat.create_feature_extractor(mine, ["last"], example_inputs=X)
    for training in (False, True, True, True, False, True):
        if extractor.training != training:
            extractor.train(training), reference.train(training)
        seen, values = eager(reference, X), run(extractor, X)
        assert same_value(values["last"], pick(reference, seen, "last")), training
        with torch.no_grad():
            for model in (mine, reference):
                for parameter in model.parameters():
                    parameter.mul_(1.25)


class CachesBySize(Net):
    """A table that both modes fill, and that changes no value."""

    def go(self, x: torch.Tensor) -> torch.Tensor:
        if self.scale is None or len(self.scale) != x.shape[-1]:
            self.scale = torch.arange(x.shape[-1]) / 4
        return x * self.scale


class SetsWhatItIs(Net):
    def __init__(self) -> None:
        super().__init__()
        self.part = Tempered(0.5)

    def go(self, x: torch.Tensor) -> torch.Tensor:
        self.part.temperature = 0.5
        return self.part(x)


@pytest.mark.parametrize("kind", [CachesBySize, SetsWhatItIs])
def test_caches_and_settings_that_stay_are_written_out(kind: Callable[[], Net]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extractor = fxfeat.create_feature_extractor(kind(), ["last"], example_inputs=X)
    assert not extractor.tapped


def test_the_error_names_the_attribute_and_both_modes() -> None:
    with pytest.raises(fxfeat.TraceError) as caught:
        fxfeat.create_feature_extractor(Flag(), ["last"], example_inputs=X, engine="code")
    assert str(caught.value) == (
        "Flag changes 'ready' in train mode and goes by it in eval mode, which written-out code does not. Ask for "
        "features outside the module that does so, or make it a buffer."
    )


def test_the_error_names_the_setting_of_a_child() -> None:
    with pytest.raises(fxfeat.TraceError) as caught:
        fxfeat.create_feature_extractor(SetsMomentum().eval(), ["last"], example_inputs=X, engine="code")
    assert re.sub(r"at .*?test_between_modes.py:\d+", "at LINE", str(caught.value)) == (
        "SetsMomentum sets 'norm.momentum' at LINE: `self.norm.momentum = 0.9`, which the next call of that module may "
        "go by; written-out code does not set it. Ask for features outside the module that does so: then it is called "
        "whole."
    )


def test_the_error_names_the_buffer_that_a_number_changes() -> None:
    with pytest.raises(fxfeat.TraceError) as caught:
        fxfeat.create_feature_extractor(HasARate(), ["last"], example_inputs=X, engine="code")
    assert str(caught.value) == (
        "'norm.running_mean' changes from call to call with rate of HasARate, which its code keeps in plain Python; "
        "written-out code could not. Ask for features outside that module, or make it a buffer."
    )


class Measures(nn.Module):
    """Is never called itself: what holds it calls its methods."""

    def __init__(self):
        super().__init__()
        self.factor = None

    def measure(self, x):
        self.factor = 2.0

    def scale(self, x):
        return x / self.factor


class Measured(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.measures, self.linear, self.inner = Measures(), nn.Linear(4, 4), inner

    def forward(self, x):
        self.measures.measure(x)
        return self.linear(self.inner(self.measures.scale(x)))


def test_settings_of_a_module_whose_methods_alone_are_called_are_written_out():
    model, x = Measured(nn.ReLU()).eval(), torch.rand(2, 4)
    extractor = fxfeat.create_feature_extractor(model, ["inner", "linear"], example_inputs=x, engine="code")
    for given in (x, torch.rand(5, 4), x):
        assert same(extractor(given)["linear"], model(given))


class Holds(nn.Module):
    """Goes by what another module has measured."""

    def __init__(self, measures):
        super().__init__()
        self.measures = measures

    def forward(self, x):
        return self.measures.scale(x) + x


def test_settings_that_a_whole_module_goes_by_are_not():
    model, x = Measured(nn.Identity()).eval(), torch.rand(2, 4)
    model.inner = Holds(model.measures)
    with pytest.raises(fxfeat.TraceError, match=r"in Python \(measures\.factor\)"):
        fxfeat.create_feature_extractor(model, ["inner", "linear"], example_inputs=x, engine="code")
