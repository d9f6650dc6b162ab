"""A list of what all calls of a module gave."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from fxfeat import GuardError, NodeNotFoundError, create_feature_extractor, verify
from tests.oracle import assert_equals_eager

X = torch.rand(2, 3, 4)


class Unrolled(nn.Module):
    """Calls one module for each step of its input, and writes to what it returned."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.pair = nn.Linear(4, 4), nn.LSTM(4, 4)

    def forward(self, x):
        h = x[:, 0]
        for step in range(x.shape[1]):
            h = self.cell(h + x[:, step])
            h += 1
        return self.pair(self.pair(h[None])[0])


class RunsUntilSmall(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(4, 4)

    def forward(self, x):
        while x.norm() > 1:
            x = self.cell(x) * 0.05
        return x * 2


class MayCall(nn.Module):
    def __init__(self, cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x):
        return self.cell(x) if x.shape[0] > 3 else x


class CallsElsewhere(nn.Module):
    """Has a module that another one calls as well, for other inputs than the example."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(4, 4)
        self.may_call = MayCall(self.cell)

    def forward(self, x):
        return self.may_call(self.cell(x))


class Draws(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(4, 4)

    def forward(self, x):
        for _ in range(random.randint(0, 3)):
            x = self.cell(x)
        return x


class CallsItself(nn.Module):
    def forward(self, x, depth=2):
        return self(x + depth, depth - 1) * 2 if depth else x


@pytest.mark.parametrize("engine", ("code", "tap"))
def test_all_calls(engine):
    names = ["cell@*", "cell@*:in", "pair@*[1][0]", "cell@1", "pair@*"]
    assert_equals_eager(Unrolled(), names, X, torch.rand(5, 3, 4), engine=engine)


def test_calls_inside_each_other_are_in_the_order_in_which_they_begin():
    names = ["0@*", "0@0", "0@1", "0@2"]
    model = nn.Sequential(CallsItself(), nn.ReLU())
    for engine in ("code", "tap"):
        values = create_feature_extractor(model, names, example_inputs=X, engine=engine)(X)
        assert all(map(torch.equal, values["0@*"], [values[name] for name in names[1:]]))
        assert not torch.equal(values["0@0"], values["0@2"])


def test_the_number_of_calls_is_checked():
    extractor = create_feature_extractor(Unrolled(), ["cell@*"], example_inputs=X)
    with pytest.raises(GuardError, match="the recording saw 3, this input gives 4"):
        extractor(torch.rand(2, 4, 4))


def test_a_decision_behind_the_last_call_is_checked():
    model = RunsUntilSmall()
    extractor = create_feature_extractor(model, ["cell@*"], example_inputs=torch.ones(1, 4))
    assert verify(model, extractor, torch.ones(1, 4)).ok
    with pytest.raises(GuardError, match="the recording saw False, this input gives True"):
        extractor(torch.ones(1, 4) * 1000)


def test_a_module_that_may_call_it_is_opened():
    extractor = create_feature_extractor(CallsElsewhere(), ["cell@*"], example_inputs=torch.ones(2, 4))
    assert len(extractor(torch.ones(3, 4))["cell@*"]) == 1
    with pytest.raises(GuardError):
        extractor(torch.ones(4, 4))


def test_any_number_of_calls_where_modules_run_whole():
    model = CallsElsewhere()
    extractor = create_feature_extractor(model, ["cell@*"], example_inputs=torch.ones(2, 4), engine="tap")
    assert [len(extractor(torch.ones(size, 4))["cell@*"]) for size in (2, 4)] == [1, 2]
    assert verify(model, extractor, torch.ones(4, 4)).ok


@pytest.mark.filterwarnings("ignore:.*runs whole")
@pytest.mark.parametrize("shares", (False, True))
def test_drawn_numbers_of_calls(shares):
    random.seed(1)
    model = nn.Sequential(Draws(), Draws())
    model[1].cell = model[0].cell if shares else model[1].cell
    extractor = create_feature_extractor(model, ["0.cell@*"], example_inputs=X)
    assert {path for path, _ in extractor.tapped} == ({""} if shares else {"0"})
    numbers = []
    for seed in range(8):
        random.seed(seed)
        expected = random.randint(0, 3) + (random.randint(0, 3) if shares else 0)
        random.seed(seed)
        numbers.append(len(extractor(X)["0.cell@*"]))
        assert numbers[-1] == expected
    assert len(set(numbers)) > 1


def test_a_module_that_is_not_called():
    model = CallsElsewhere()
    model.unused = nn.Linear(4, 4)
    with pytest.raises(
        NodeNotFoundError, match=r"^'unused@0' is a module of CallsElsewhere, but its forward does not run"
    ):
        create_feature_extractor(model, ["unused@*"], example_inputs=torch.ones(2, 4))
