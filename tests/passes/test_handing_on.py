"""Modules that hand things on to each other in Python: by a flag, a list, a global, an attribute of a tensor."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import assert_taps_equal_eager, same

X = torch.randn(3, 4)
SHARED: dict[str, object] = {}


class Box(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.kept = False, []


class Giver(nn.Module):
    def __init__(self, box):
        super().__init__()
        self.box, self.linear = box, nn.Linear(4, 4)

    def forward(self, x):
        y = self.linear(x)
        self.give(x, y)
        return y + 1


class Taker(Giver):
    def forward(self, x):
        return self.linear(self.take(x))


class Model(nn.Module):
    """What ``first`` returns is of no use."""

    def __init__(self, returning_call, taker):
        super().__init__()
        self.box = Box()
        self.first, self.second, self.head = returning_call(self.box), taker(self.box), nn.Linear(4, 2)

    def forward(self, x):
        self.first(x)
        return self.head(self.second(x))


class SetsAFlag(Giver):
    def give(self, x, y):
        self.box.up = True


class GoesByAFlag(Taker):
    def take(self, x):
        return x * 2 if self.box.up else x


class KeepsATensor(Giver):
    def give(self, x, y):
        self.box.kept = [y]


class TakesATensor(Taker):
    def take(self, x):
        return x + self.box.kept[0]


class Appends(Giver):
    def give(self, x, y):
        self.box.kept.append(1)


class Counts(Taker):
    def take(self, x):
        return x * len(self.box.kept)


class MarksATensor(Giver):
    def give(self, x, y):
        x.mark = y


class TakesAMark(Taker):
    def take(self, x):
        return x + x.mark


class KeepsInAGlobal(Giver):
    def give(self, x, y):
        SHARED["tensor"] = y


class TakesFromAGlobal(Taker):
    def take(self, x):
        return x + SHARED["tensor"]


class SetsAGlobal(Giver):
    def give(self, x, y):
        SHARED["times"] = 3


class GoesByAGlobal(Taker):
    def take(self, x):
        return x * SHARED.get("times", 1)


class SetsAMode(Giver):
    def give(self, x, y):
        self.box.train()


class GoesByAMode(Taker):
    def take(self, x):
        return x * 2 if self.box.training else x


class RunsNoOperation(nn.Module):
    def __init__(self, box):
        super().__init__()
        self.box = box

    def forward(self, x):
        self.box.up = True


TENSORS = [(KeepsATensor, TakesATensor), (MarksATensor, TakesAMark), (KeepsInAGlobal, TakesFromAGlobal)]
OTHERS = [(SetsAFlag, GoesByAFlag), (Appends, Counts), (SetsAGlobal, GoesByAGlobal), (SetsAMode, GoesByAMode)]


def model_of(pair):
    SHARED.clear()
    torch.manual_seed(0)
    return Model(*pair).eval()


def results(call):
    SHARED.clear()
    return [call(X.clone()), call(-X)]


def assert_right(model, names):
    reference = copy.deepcopy(model)
    extractor = fxfeat.create_feature_extractor(model, names, example_inputs=X)
    found = results(lambda held: extractor(held)["head"])
    assert all(map(same, found, results(reference))), extractor.code


@pytest.mark.parametrize("pair", [*TENSORS, *OTHERS, (RunsNoOperation, GoesByAFlag)], ids=lambda pair: pair[0].__name__)
def test_a_module_that_others_go_by_is_called_though_its_result_is_of_no_use(pair):
    assert_right(model_of(pair), ["head"])


@pytest.mark.parametrize("pair", TENSORS, ids=lambda pair: pair[0].__name__)
def test_a_tensor_that_an_opened_module_hands_on_arrives(pair):
    assert_right(model_of(pair), ["first.linear", "head"])


@pytest.mark.parametrize("pair", OTHERS, ids=lambda pair: pair[0].__name__)
def test_what_an_opened_module_hands_on_in_python_is_refused(pair):
    with pytest.raises(fxfeat.TraceError, match=r"^Model hands something on from one module to another, "):
        fxfeat.create_feature_extractor(model_of(pair), ["first.linear", "head"], example_inputs=X, engine="code")
    assert_taps_equal_eager(model_of(pair), ["first.linear", "head"], X)


class Backwards(Model):
    """The flag is set after it is asked about: the next call goes by it."""

    def forward(self, x):
        y = self.second(x)
        return self.head(self.first(y))


def test_a_flag_that_is_set_for_the_next_call_behind_the_features_is_refused():
    model = Backwards(SetsAFlag, GoesByAFlag).eval()
    with pytest.raises(fxfeat.TraceError, match=r"^Backwards hands something on from one module to another, or to the"):
        fxfeat.create_feature_extractor(model, ["second"], example_inputs=X, engine="code")
    assert_taps_equal_eager(model, ["second"], X)


def test_a_flag_that_is_set_for_the_next_call_before_the_last_feature_is_there():
    assert_right(Backwards(SetsAFlag, GoesByAFlag).eval(), ["second", "head"])


class DrawsBehind(Model):
    def forward(self, x):
        return nn.functional.dropout(self.head(self.second(nn.functional.dropout(x))), 0.5)


class SetsItsOwn(Giver):
    def forward(self, x):
        self.rows = x.shape[0]
        return self.linear(x) + 1


def test_what_is_drawn_behind_the_last_feature_does_not_make_calls_differ():
    model = DrawsBehind(SetsAFlag, SetsItsOwn).train()
    extractor = fxfeat.create_feature_extractor(model, ["second"], example_inputs=X)
    assert fxfeat.verify(model, extractor, X).ok


class AsksAboutGradients(GoesByAFlag):
    def take(self, x):
        return super().take(x) + (1 if torch.is_grad_enabled() else 2)


def test_questions_about_gradients_are_answered_as_they_were():
    model = model_of((SetsAFlag, AsksAboutGradients))
    extractor = fxfeat.create_feature_extractor(model, ["second.linear", "head"], example_inputs=X)
    assert same(extractor(X)["head"], model(X))


class GivesAViewOfWhatIsOverwritten(nn.Module):
    """Autograd allows no further operation on such a view."""

    def __init__(self):
        super().__init__()
        self.box, self.linear = Box(), nn.Linear(4, 4)

    def forward(self, x):
        self.box.up = True
        y = self.linear(x)
        _, right = y.chunk(2, 1)
        y.mul_(2)
        return right


def test_a_feature_that_no_operation_may_follow():
    model = GivesAViewOfWhatIsOverwritten()
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=X)
    with torch.no_grad():
        assert same(extractor(X)["output"], model(X))


class Spikes(nn.Module):
    """What it keeps shows only where it adds up to enough."""

    def __init__(self):
        super().__init__()
        self.charge, self.held = 0.0, {"charge": 0.0}

    def forward(self, x):
        self.charge = self.charge + x
        spike = (self.charge > 1).float()
        self.charge = self.charge * (1 - spike)
        return spike


class SpikesFromADict(Spikes):
    def forward(self, x):
        charge = self.held["charge"] + x
        spike = (charge > 1).float()
        self.held["charge"] = charge * (1 - spike)
        return spike


class Discharges(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.linear, self.cell = nn.Linear(4, 4), cell()

    def forward(self, x):
        self.cell.charge = self.cell.held["charge"] = 0.0
        return self.cell(self.linear(x))


@pytest.mark.parametrize("size", [0.1, 1, 3, 10])
@pytest.mark.parametrize("cell", [Spikes, SpikesFromADict])
def test_a_reset_that_does_not_show_on_the_example_is_refused(cell, size):
    torch.manual_seed(0)
    with pytest.raises(fxfeat.TraceError, match=r"^Discharges hands something on from one module to another, "):
        fxfeat.create_feature_extractor(
            Discharges(cell).eval(), ["cell"], example_inputs=torch.rand(3, 4) * size, engine="code"
        )
    torch.manual_seed(0)
    assert_taps_equal_eager(Discharges(cell).eval(), ["cell"], torch.rand(3, 4) * size)


def test_the_refusal_names_what_is_handed_on():
    with pytest.raises(fxfeat.TraceError) as refused:
        fxfeat.create_feature_extractor(
            model_of((SetsAFlag, GoesByAFlag)), ["first.linear", "head"], example_inputs=X, engine="code"
        )
    assert_taps_equal_eager(model_of((SetsAFlag, GoesByAFlag)), ["first.linear", "head"], X)
    assert str(refused.value) == (
        "Model hands something on from one module to another, or to the next call, in Python (box.up), which "
        "written-out code does not. Ask for features outside the modules that do so: then they are called whole."
    )


def test_what_has_no_operation_is_called_before_what_goes_by_it():
    extractor = fxfeat.create_feature_extractor(model_of((RunsNoOperation, GoesByAFlag)), ["head"], example_inputs=X)
    assert (
        extractor.code
        == """\
def forward(self, x):
    self.first(x)
    x = self.second(x)
    head = self.head(x)
    return {'head': head}
"""
    )
