"""What one mode writes and the other reads is kept up, whether or not the first needs it for its own values."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import eager, pick, run, same, same_value

X = torch.rand(4, 8)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class AveragesWeights(Net):
    """As teachers do, by a weight, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.average = copy.deepcopy(self.first).requires_grad_(False)
        self.register_buffer("size", torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return self.last(self.average(x) / self.size)
        with torch.no_grad():
            for mine, other in zip(self.first.parameters(), self.average.parameters(), strict=True):
                other.mul_(0.9).add_(mine, alpha=0.1)
            self.size.copy_(self.first.weight.norm())
        return self.last(self.first(x))


class FillsByEntry(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(3, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        if self.training:
            self.table[1] = self.first.bias.detach() * 2
            return self.last(x)
        return self.last(x + self.table[1])


class TakesStatistics(Net):
    """The norm runs for its statistics only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        if self.training:
            with torch.no_grad():
                self.norm(x)
            return self.last(x)
        return self.last(self.norm(x))


class TakesOneOfTwo(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        y = self.norm(x)
        return self.last(x if self.training else y)


class NormsAgain(Net):
    """The norm runs a second time behind the value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.last(self.norm(self.first(x))))


class UpdatesBehind(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x) if self.training else self.first(x) - self.mean
        y = self.last(x)
        if self.training:
            self.mean.lerp_(y.detach().mean(0), 0.1)
        return y


CASES = [
    *((AveragesWeights, name) for name in ("last", "output")),
    *((FillsByEntry, name) for name in ("first", "last")),
    *((TakesStatistics, name) for name in ("last", "output")),
    *((TakesOneOfTwo, name) for name in ("last", "output")),
    *((NormsAgain, name) for name in ("norm", "last", "output")),
    *((UpdatesBehind, name) for name in ("first", "last", "output")),
]


@pytest.mark.parametrize("created", [False, True])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_each_mode_finds_what_the_other_left(kind: type[Net], name: str, created: bool) -> None:
    torch.manual_seed(0)
    mine = kind().train(created)
    reference = copy.deepcopy(mine)
    extractor = fxfeat.create_feature_extractor(mine, [name], example_inputs=X)
    for training in (True, False, True, False):
        extractor.train(training), reference.train(training)
        seen, values = eager(reference, X), run(extractor, X)
        assert same_value(values[name], pick(reference, seen, name)), extractor.code
        with torch.no_grad():
            for model in (mine, reference):
                model.first.weight.mul_(1.25)


def test_a_head_that_no_mode_needs_goes_with_its_state() -> None:
    class Heads(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            self.norm(x)
            return self.last(x)

    extractor = fxfeat.create_feature_extractor(Heads(), ["last"], example_inputs=X)
    assert "norm" not in extractor.code
    assert not any(key.startswith("norm") for key in extractor.state_dict())


def test_state_is_that_of_the_model() -> None:
    model = TakesStatistics().train()
    reference = copy.deepcopy(model)
    extractor = fxfeat.create_feature_extractor(model, ["last"], example_inputs=X)
    extractor(X), reference(X)
    assert same(extractor.norm.running_mean, reference.norm.running_mean)
