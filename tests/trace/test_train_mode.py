"""One trace serves both modes where the code does not go by the mode."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import StochasticDepth

import fxfeat
from fxfeat.trace.setup import read_setup, record_mode
from tests.opening.test_told import counting
from tests.oracle import eager, pick, run, same, same_value

IMAGE = torch.rand(2, 3, 6, 6)


class Net(nn.Module):
    """A convolution, a part, and another convolution."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.conv, self.part, self.last = nn.Conv2d(3, 4, 3), part, nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.go(self.conv(x)))

    def go(self, x: torch.Tensor) -> torch.Tensor:
        return self.part(x)


def assert_equals_eager_in_both(model: nn.Module, names: list[str]) -> None:
    """Compare values and buffers, made in one mode and used in both, with modules left whole and written out."""
    for created, flatten in itertools.product((False, True), repeat=2):
        mine, reference = (copy.deepcopy(model).train(created) for _ in range(2))
        extractor = fxfeat.create_feature_extractor(mine, names, example_inputs=IMAGE, flatten=flatten)
        for training in (created, not created, created):
            extractor.train(training), reference.train(training)
            seen, values = eager(reference, IMAGE), run(extractor, IMAGE)
            for name in names:
                assert same_value(values[name], pick(reference, seen, name)), f"{name} {training}\n{extractor.code}"
            _assert_same_buffers(extractor, reference)


def _assert_same_buffers(extractor: nn.Module, reference: nn.Module) -> None:
    expected = dict(reference.named_buffers())
    for name, buffer in extractor.named_buffers():
        assert same(buffer, expected[name]), name


def recordings_of(model: nn.Module, names: list[str]) -> int:
    with counting() as counts:
        fxfeat.create_feature_extractor(model, names, example_inputs=IMAGE)
    return counts["recordings"]


# -- parts that do not go by the mode, or by which only torch's own modules do -----------------------------------------


class DropsInPlaceAfter(nn.Module):
    """What dropout gives is its input in eval mode, and is written to."""

    def __init__(self, drop: nn.Module) -> None:
        super().__init__()
        self.drop = drop

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.drop(x)
        y += 1
        return y


class Normed(nn.Module):
    """Runs a batch norm twice."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.norm(x) * 2)


class DropsBeside(nn.Module):
    """Draws in a branch that no feature needs, before a branch that one needs."""

    def __init__(self) -> None:
        super().__init__()
        self.beside, self.drop = nn.Dropout(0.5), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.beside(x)
        return self.drop(x)


class Scaled(nn.BatchNorm2d):
    """Has no code of its own, and a class of its own."""


ONE_TRACE: dict[str, Callable[[], nn.Module]] = {
    "no mode": nn.ReLU,
    "batch norm": lambda: nn.BatchNorm2d(4),
    "batch norm by a running mean": lambda: nn.BatchNorm2d(4, momentum=None),
    "batch norm without statistics": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "batch norm twice": Normed,
    "batch norm and activation": lambda: nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
    "dropout": lambda: nn.Dropout(0.5),
    "dropout of nothing": lambda: nn.Dropout(0.0),
    "dropout in place": lambda: nn.Dropout(0.5, inplace=True),
    "dropout of channels": lambda: nn.Dropout2d(0.5),
    "alpha dropout": lambda: nn.AlphaDropout(0.5),
    "stochastic depth": lambda: StochasticDepth(0.5, "row"),
    "dropout, and an activation in place": lambda: nn.Sequential(nn.Dropout(0.5), nn.ReLU(inplace=True)),
    "dropout, and code that writes": lambda: DropsInPlaceAfter(nn.Dropout(0.5)),
    "dropout in a branch that is not needed": DropsBeside,
}


@pytest.mark.parametrize("part", ONE_TRACE)
def test_one_trace_serves_both_modes(part: str) -> None:
    torch.manual_seed(0)
    model = Net(ONE_TRACE[part]())
    assert recordings_of(model, ["last"]) == recordings_of(model.eval(), ["last"]) == 1
    assert_equals_eager_in_both(model, ["part", "last"])


@pytest.mark.parametrize(
    "part", ["dropout in place", "dropout, and an activation in place", "dropout, and code that writes"]
)
def test_a_feature_that_is_overwritten_through_dropout(part: str) -> None:
    model = Net(ONE_TRACE[part]())
    assert recordings_of(model, ["conv", "last"]) == 2
    assert_equals_eager_in_both(model, ["conv", "last"])


# -- parts that go by the mode -----------------------------------------------------------------------------------------


class Asks(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if self.training else x * 3


class AsksByVars(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if vars(self)["training"] else x * 3


class AsksByTheDict(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if self.__dict__["training"] else x * 3


class AsksACopy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if copy.copy(self).training else x * 3


class AsksByName(nn.Module):
    name = "training"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if getattr(self, self.name) else x * 3


def _is_training(module: nn.Module) -> bool:
    return module.training


class AsksElsewhere(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if _is_training(self) else x * 3


class AsksAModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x) + 1 if self.norm.training else self.norm(x)


class Drops(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, 0.5, self.training)


class AsksInAHook(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.relu.register_forward_hook(lambda module, args, result: result + 1 if module.training else result * 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(x)


class AsksOfANorm(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + (1 if self.training else 2)


class Sets(nn.Module):
    """Keeps a norm in eval mode from its own code."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x)

    def train(self, mode: bool = True) -> Sets:
        super().train(mode)
        self.norm.eval()
        return self


class Keeps(nn.Module):
    """Keeps a flag of its own with the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.adds = True

    def train(self, mode: bool = True) -> Keeps:
        super().train(mode)
        self.adds = mode
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if self.adds else x * 3


class KeepsByAttribute(nn.Module):
    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "training":
            self.__dict__["adds"] = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if self.adds else x * 3


class ReadsStatistics(nn.Module):
    """Goes on with what a norm has written."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = self.norm.running_mean + 0
        y = self.norm(x)
        return y + (self.norm.running_mean - before)[:, None, None]


class Attends(nn.Module):
    """Torch's layer takes a fast path in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.5, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.layer(x.flatten(2).mT)
        return tokens.mT.reshape(x.shape)


def _spectral(old: bool) -> nn.Module:
    norm = nn.utils.spectral_norm if old else nn.utils.parametrizations.spectral_norm
    return norm(nn.Conv2d(4, 4, 1))


TWO_TRACES: dict[str, Callable[[], nn.Module]] = {
    **{kind.__name__: kind for kind in (Asks, AsksByVars, AsksByTheDict, AsksACopy, AsksByName, AsksElsewhere)},
    **{kind.__name__: kind for kind in (AsksAModule, Drops, AsksInAHook, Sets, Keeps, KeepsByAttribute)},
    **{kind.__name__: kind for kind in (ReadsStatistics, Attends)},
    "AsksOfANorm": lambda: AsksOfANorm(4),
    "a norm of a class of its own": lambda: Scaled(4),
    "spectral norm": lambda: _spectral(False),
    "spectral norm by a hook": lambda: _spectral(True),
    "instance norm with statistics": lambda: nn.InstanceNorm2d(4, track_running_stats=True),
    "random slopes": nn.RReLU,
}


@pytest.mark.parametrize("part", TWO_TRACES)
def test_code_that_goes_by_the_mode_is_traced_in_each(part: str) -> None:
    torch.manual_seed(0)
    model = Net(TWO_TRACES[part]())
    assert recordings_of(model, ["last"]) >= 2
    assert_equals_eager_in_both(model, ["last"])


def test_a_norm_over_one_value_fails_in_train_mode_as_in_eager() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(x).mean((2, 3), keepdim=True))

    extractor = fxfeat.create_feature_extractor(Pooled().eval(), ["norm"], example_inputs=IMAGE[:1])
    assert extractor(IMAGE[:1])["norm"].shape == (1, 4, 1, 1)
    with pytest.raises(fxfeat.TraceError, match="Expected more than 1 value per channel when training"):
        extractor.train()(IMAGE[:1])


def test_recurrent_layers_draw_in_train_mode() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.last = nn.LSTM(6, 4, num_layers=2, dropout=0.5), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.lstm(x[:, 0])[0])

    assert record_mode(read_setup(Recurrent(), None, None, IMAGE), False).same_in_training
    assert_equals_eager_in_both(Recurrent(), ["lstm[0]", "last"])


def test_a_derived_recording_is_that_of_a_run() -> None:
    """Nodes, module calls and effects are those that a run in train mode leaves behind."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Flatten())
    derived = record_mode(read_setup(model, None, None, IMAGE), True)
    setup = read_setup(model, None, None, IMAGE)
    setup.one_trace = False
    recorded = record_mode(setup, True)
    assert derived.derived and not recorded.derived
    for mine, other in zip(derived.nodes, recorded.nodes, strict=True):
        assert (mine.name, str(mine.args)) == (other.name, str(other.args))
        mine_meta, other_meta = mine.meta["fxfeat"], other.meta["fxfeat"]
        assert (len(mine_meta.writes), mine_meta.draws) == (len(other_meta.writes), other_meta.draws)
        assert (mine_meta.value, mine_meta.call_path) == (other_meta.value, other_meta.call_path)
    assert [call.path for call in derived.module_calls] == [call.path for call in recorded.module_calls]
    assert (derived.writes_state, derived.training) == (recorded.writes_state, recorded.training)


class DrawsBeforeDropout(nn.Module):
    """Draws in both modes what nothing uses, and then drops."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout2d(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.bernoulli(torch.sigmoid(x))
        return self.drop(x)


class DropsBehindAQuestion(nn.Module):
    """Drops what nothing uses right behind a question, and drops again."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Sequential(nn.Dropout(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] > 1:
            self.drop(x)
        return self.drop(x + 1)


@pytest.mark.parametrize("model", [DrawsBeforeDropout(), DropsBehindAQuestion()])
def test_draws_in_front_of_those_of_train_mode(model: nn.Module) -> None:
    assert_equals_eager_in_both(model, ["drop"])
