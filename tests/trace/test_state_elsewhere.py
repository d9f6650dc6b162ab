"""State that models keep elsewhere than in buffers: right, or refused, and never left altered by wrapping."""

from __future__ import annotations

import itertools
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxfeat
from tests.oracle import assert_equals_eager, assert_taps_equal_eager

X = torch.randn(3, 4)
LONGER = torch.randn(6, 4)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.last = nn.Identity()
        self.prepare()

    def prepare(self):
        pass


# -- tensors ----------------------------------------------------------------------------------------------------------


class TensorInAList(Base):
    def prepare(self):
        self.held = [torch.zeros(4)]

    def forward(self, x):
        y = self.last(self.linear(x) + self.held[0])
        self.held[0].add_(1)
        return y


class TensorInAnObject(Base):
    def prepare(self):
        self.held = SimpleNamespace(sum=torch.zeros(4))

    def forward(self, x):
        y = self.last(self.linear(x) + self.held.sum)
        self.held.sum.add_(1)
        return y


class TensorInATuple(Base):
    def prepare(self):
        self.held = (torch.zeros(4),)

    def forward(self, x):
        y = self.linear(x) + self.held[0]
        self.held[0].add_(1)
        return self.last(y)


class TwoBuffersOverOneMemory(Base):
    def prepare(self):
        both = torch.zeros(4)
        self.register_buffer("row", both)
        self.register_buffer("table", both.view(2, 2))

    def forward(self, x):
        y = self.last(self.linear(x) + self.row)
        self.table.add_(1)
        return y


class ArrayMadeAtEachCall(Base):
    def forward(self, x):
        scale = torch.from_numpy(np.ones(4, dtype=np.float32))
        scale += 1
        y = self.last(self.linear(x) * scale)
        offset = torch.tensor(np.ones(4), dtype=torch.float32)
        offset += 1
        return y + offset


class TensorsMadeByTheOldConstructors(Base):
    def forward(self, x):
        scale, rows = torch.Tensor([1.0, 2.0, 3.0, 4.0]), torch.LongTensor([0, 2, 1, 2])
        scale += 1
        rows[0] += 1
        return self.last(self.linear(x)[:, rows] * scale)


class Slot:
    __slots__ = ("held",)


class TensorInASlot(Base):
    def prepare(self):
        self.slot = Slot()
        self.slot.held = torch.zeros(4)

    def forward(self, x):
        y = self.linear(x) + self.slot.held
        self.slot.held.add_(1)
        return self.last(y)


HELD = [TensorInAList, TensorInAnObject, TensorInATuple, TensorInASlot, TwoBuffersOverOneMemory]
MADE = [ArrayMadeAtEachCall, TensorsMadeByTheOldConstructors]


@pytest.mark.parametrize("kind", [*HELD, *MADE])
@pytest.mark.parametrize("names", [["last"], ["linear"], ["output"]])
def test_tensors_held_elsewhere(kind, names):
    assert_equals_eager(kind(), names, X, LONGER, X)


class NormInAList(Base):
    def prepare(self):
        self.norms, self.calls = [nn.BatchNorm1d(4)], 0

    def forward(self, x):
        self.calls += 1
        return self.last(self.norms[0](self.linear(x)))


class StepsWithATensorInADict(Base):
    def prepare(self):
        self.held, self.calls = {"sum": torch.zeros(4)}, 0

    def forward(self, x):
        self.calls += 1
        self.held["sum"].add_(1)
        return self.last(self.linear(x))


def test_wrapping_writes_to_nothing_in_lists_and_dicts():
    normed, stepping = NormInAList().train(), StepsWithATensorInADict()
    fxfeat.create_feature_extractor(normed, ["linear"], example_inputs=X)
    fxfeat.create_feature_extractor(stepping, ["linear"], example_inputs=X)
    assert normed.norms[0].num_batches_tracked == 0
    assert torch.count_nonzero(normed.norms[0].running_mean) == 0
    assert torch.count_nonzero(stepping.held["sum"]) == 0


# -- running statistics -----------------------------------------------------------------------------------------------


class Normed(Base):
    def prepare(self):
        self.norm = nn.BatchNorm1d(4)


class ReadsTheMeanAfterwards(Normed):
    def forward(self, x):
        y = self.linear(x)
        self.norm(y)
        return self.last(x - self.norm.running_mean)


class NormsAgainByTheStatistics(Normed):
    def forward(self, x):
        y = self.linear(x)
        self.norm(y)
        return self.last(F.batch_norm(y, self.norm.running_mean, self.norm.running_var))


class UpdatesByAFunction(Normed):
    def forward(self, x):
        y = self.linear(x)
        F.batch_norm(y, self.norm.running_mean, self.norm.running_var, training=True)
        return self.last(y - self.norm.running_mean)


class ReadsTheMeanBefore(Normed):
    def forward(self, x):
        return self.norm(self.last(self.linear(x) - self.norm.running_mean))


@pytest.mark.parametrize(
    "kind", [ReadsTheMeanAfterwards, NormsAgainByTheStatistics, UpdatesByAFunction, ReadsTheMeanBefore]
)
def test_statistics_that_batch_norm_writes_and_the_model_reads(kind):
    assert_equals_eager(kind(), ["last"], X, LONGER, X)


class AveragesAllItHasSeen(Base):
    def prepare(self):
        self.norm = nn.BatchNorm1d(4, momentum=None)

    def forward(self, x):
        return self.last(self.norm(self.linear(x)))


def test_a_batch_norm_without_momentum():
    assert_equals_eager(AveragesAllItHasSeen(), ["norm", "last"], X, LONGER, X)


# -- scripts ----------------------------------------------------------------------------------------------------------


class Scripted(Base):
    def prepare(self):
        self.script = torch.jit.script(nn.BatchNorm1d(4))

    def forward(self, x):
        return self.last(self.script(self.linear(x)))


class ScriptWritesToItsArgument(Base):
    def prepare(self):
        self.script = torch.jit.script(nn.ReLU(inplace=True))

    def forward(self, x):
        y = self.linear(x)
        self.script(y)
        return self.last(y + 1)


@pytest.mark.parametrize("training", [True, False])
def test_wrapping_keeps_the_mode_of_a_script(training):
    model = Scripted().train(training)
    fxfeat.create_feature_extractor(model, ["linear"], example_inputs=X)
    assert model.script.training is training


@pytest.mark.parametrize("names", [["last"], ["linear", "last"]])
def test_a_script_that_writes_to_its_argument(names):
    model = ScriptWritesToItsArgument().eval()
    extractor = fxfeat.create_feature_extractor(model, names, example_inputs=X)
    for inputs in (X, LONGER):
        linear = model.linear(inputs)
        expected = {"linear": linear, "last": linear.relu() + 1}
        assert all(torch.equal(extractor(inputs)[name], expected[name]) for name in names)


# -- Python -----------------------------------------------------------------------------------------------------------


class ClassAttribute(Base):
    calls = 0

    def forward(self, x):
        type(self).calls += 1
        return self.last(self.linear(x) * type(self).calls)


class ListInATuple(Base):
    def prepare(self):
        self.held = ([],)

    def forward(self, x):
        self.held[0].append(1)
        return self.last(self.linear(x) * len(self.held[0]))


class Callable:
    def __init__(self):
        self.calls, self.held = 0, torch.zeros(4)

    def __call__(self, x):
        self.calls += 1
        self.held = self.held + 1
        return x * self.calls + self.held


class CallableAttribute(Base):
    def prepare(self):
        self.scale = Callable()

    def forward(self, x):
        return self.last(self.scale(self.linear(x)))


def make_closure():
    calls = 0

    def scale(x):
        nonlocal calls
        calls += 1
        return x * calls

    return scale


class ClosureAttribute(Base):
    def prepare(self):
        self.scale = make_closure()

    def forward(self, x):
        return self.last(self.scale(self.linear(x)))


class MutableDefault(Base):
    def forward(self, x, calls=[]):  # noqa: B006  that is the trap
        calls.append(1)
        return self.last(self.linear(x) * len(calls))


class ArrayAttribute(Base):
    def prepare(self):
        self.held = np.ones(1)

    def forward(self, x):
        self.held += 1
        return self.last(self.linear(x) * float(self.held[0]))


class Slots:
    __slots__ = ("calls",)

    def __init__(self):
        self.calls = 0


class SlotsAttribute(Base):
    def prepare(self):
        self.held = Slots()

    def forward(self, x):
        self.held.calls += 1
        return self.last(self.linear(x) * self.held.calls)


class IteratorAttribute(Base):
    def prepare(self):
        self.held = itertools.count(1)

    def forward(self, x):
        return self.last(self.linear(x) * next(self.held))


class OwnGenerator(Base):
    def prepare(self):
        self.held = random.Random(0)

    def forward(self, x):
        return self.last(self.linear(x) * self.held.random())


class SettingOfAChild(Base):
    def prepare(self):
        self.last = nn.LeakyReLU(0.5)

    def forward(self, x):
        y = self.last(self.linear(x))
        self.last.negative_slope *= 0.5
        return y


class ParameterReplaced(Base):
    def forward(self, x):
        y = self.last(self.linear(x))
        self.linear.weight = nn.Parameter(self.linear.weight.detach() * 2)
        return y


class ChildReplaced(Base):
    def forward(self, x):
        y = self.last(self.linear(x))
        self.last = nn.Tanh()
        return y


@pytest.mark.parametrize(
    "kind",
    [
        *(ClassAttribute, ListInATuple, CallableAttribute, ClosureAttribute, MutableDefault, ArrayAttribute),
        *(SettingOfAChild, ParameterReplaced, ChildReplaced, SlotsAttribute, OwnGenerator),
    ],
)
def test_python_state_that_changes_a_feature_is_refused(kind):
    with pytest.raises(fxfeat.TraceError, match="'last' changes from call to call with"):
        fxfeat.create_feature_extractor(kind(), ["last"], example_inputs=X, engine="code")
    assert_taps_equal_eager(kind(), ["last"], X)


@pytest.mark.parametrize("kind", [IteratorAttribute])
def test_python_state_that_nobody_sees_is_refused_by_what_it_does(kind):
    with pytest.raises(fxfeat.TraceError) as caught:
        fxfeat.create_feature_extractor(kind(), ["last"], example_inputs=X, engine="code")
    assert_taps_equal_eager(kind(), ["last"], X)
    assert str(caught.value) == (
        f"{kind.__name__} does something else each time it is run on the same input: its code keeps state where fxfeat "
        "cannot see it, as in an iterator, a generator of random numbers or __slots__. Make it a buffer, or ask for "
        "features outside the module that keeps it. A torch.Tensor(2, 3) that it makes holds what the memory held: "
        "make a torch.empty(2, 3)."
    )


@pytest.mark.parametrize("kind", [ClassAttribute, CallableAttribute, ListInATuple, ClosureAttribute, ArrayAttribute])
def test_features_before_python_state_are_right_and_wrapping_leaves_the_state(kind):
    model = kind()
    first = model(X)
    again = kind()
    again.load_state_dict(model.state_dict())
    kind.calls = 0
    assert_equals_eager(again, ["linear"], X, LONGER)
    kind.calls = 0
    fresh = kind()
    fresh.load_state_dict(model.state_dict())
    fxfeat.create_feature_extractor(fresh, ["linear"], example_inputs=X)
    assert torch.equal(fresh(X), first)


class MemoryExchangedAfterwards(Base):
    def forward(self, x):
        y = self.last(self.linear(x))
        self.linear.weight.data = self.linear.weight.data * 2
        return y


def test_memory_of_the_model_exchanged_after_the_feature_is_refused():
    with pytest.raises(fxfeat.TraceError, match=r"the memory of a tensor is exchanged at .*linear\.weight\.data = "):
        fxfeat.create_feature_extractor(MemoryExchangedAfterwards(), ["last"], example_inputs=X, engine="code")
    assert_taps_equal_eager(MemoryExchangedAfterwards(), ["last"], X)


class AsksForAnAddress(Base):
    def forward(self, x):
        y = self.linear(x)
        return self.last(y if y.data_ptr() == x.data_ptr() else y * 2)


def test_an_address_that_is_read_is_refused():
    with pytest.raises(fxfeat.TraceError, match="the address of a tensor's memory is read at "):
        fxfeat.create_feature_extractor(AsksForAnAddress(), ["last"], example_inputs=X, engine="code")
    assert_taps_equal_eager(AsksForAnAddress(), ["last"], X)
