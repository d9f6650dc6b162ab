"""Writes that no ordinary in-place method makes: to ``.data`` and to flags, by lists, scripts and operators."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import assert_equals_eager, assert_taps_equal_eager, eager, run, same

X = torch.randn(3, 4)
LONGER = torch.randn(6, 4)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)


class AssignsData(Base):
    def forward(self, x):
        y = self.linear(x).detach()
        y.data = y.data * 2
        return self.head(y)


class SetsStorage(Base):
    def forward(self, x):
        y = self.linear(x).detach()
        y.set_(y * 2)
        return self.head(y)


class AssignsDataOfAWeight(Base):
    def forward(self, x):
        y = self.linear(x)
        self.head.weight.data = self.head.weight.data * 1.5
        return self.head(y)


class ClampsAWeight(Base):
    def forward(self, x):
        y = self.linear(x)
        self.head.weight.data.clamp_(-0.1, 0.1)
        return self.head(y)


class ListOfTensors(Base):
    def forward(self, x):
        y = self.linear(x).detach()
        torch._foreach_mul_([y], 2.0)
        return self.head(y)


@torch.jit.script
def doubled_(x: torch.Tensor) -> torch.Tensor:
    x.mul_(2)
    return x


class ScriptedStatement(Base):
    def forward(self, x):
        y = self.linear(x)
        doubled_(y)
        return self.head(y)


class DirtyFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


class FunctionStatement(Base):
    def forward(self, x):
        y = self.linear(x) * 1
        DirtyFunction.apply(y)
        return self.head(y)


def _double(x):
    x.mul_(2)


_library = torch.library.Library("fxfeat_tests", "DEF")
_library.define("double_(Tensor(a!) x) -> ()")
_library.impl("double_", _double, "CompositeExplicitAutograd")


class OperatorStatement(Base):
    def forward(self, x):
        y = self.linear(x).detach()
        torch.ops.fxfeat_tests.double_(y)
        return self.head(y)


class WritesItsArgument(nn.Module):
    def forward(self, x):
        x.mul_(2)


class ChildStatement(Base):
    def __init__(self):
        super().__init__()
        self.child = WritesItsArgument()

    def forward(self, x):
        y = self.linear(x)
        self.child(y)
        return self.head(y)


class ChildThat(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, x):
        self.change(x)
        return x + 1


def double_data(x):
    x.data = x.data * 2


def replace_data_and_add(x):
    x.data = torch.ones_like(x)
    x += 1


def exchange_memory(x):
    x.set_(torch.ones_like(x))


def fill_memory(x):
    x.untyped_storage().fill_(0)


def fill_given_memory(x):
    torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(x)).fill_(0)


def fill_array(x):
    x.numpy().fill(0)


def double_rows(x):
    torch.func.vmap(lambda row: row.mul_(2))(x)


def double_rows_of_rows(x):
    torch.func.vmap(torch.func.vmap(lambda number: number.mul_(2)))(x)


REFUSED = [double_data, replace_data_and_add, exchange_memory, fill_memory, fill_given_memory]
CHANGES = [*REFUSED, fill_array, double_rows, double_rows_of_rows]


class ChildThatChanges(Base):
    def __init__(self, change):
        super().__init__()
        self.child, self.after = ChildThat(change), nn.Linear(4, 2)

    def forward(self, x):
        y = self.linear(x).detach()
        return self.head(y), self.child(y), self.after(y)


@pytest.mark.parametrize("change", CHANGES)
def test_a_whole_child_gives_a_feature_other_memory(change):
    model = ChildThatChanges(change).eval()
    linear = fxfeat.create_feature_extractor(model, ["linear"], example_inputs=X)
    after = fxfeat.create_feature_extractor(model, ["after"], example_inputs=X)
    names = ["linear", "detach", "head", "child", "after"]
    extractor = fxfeat.create_feature_extractor(model, names, example_inputs=X)
    for inputs in (X, LONGER, X):
        seen, found = eager(model, inputs), run(extractor, inputs)
        for name in ("linear", "head", "child", "after"):
            assert same(found[name], seen[name][0]), f"{name}\n{extractor.code}"
        assert torch.equal(found["detach"], linear(inputs)["linear"])
        assert same(run(after, inputs)["after"], seen["after"][0]), after.code


@pytest.mark.parametrize("change", REFUSED)
def test_an_opened_child_that_gets_at_memory_is_refused(change):
    what = "handed out" if change in (fill_memory, fill_given_memory) else "exchanged"
    refusal = (
        rf"^In 'child', the memory of a tensor is {what} at .*test_rebinding.py:\d+: `.*x.*`. Ask for features outs"
    )
    with pytest.raises(fxfeat.TraceError, match=refusal):
        fxfeat.create_feature_extractor(ChildThatChanges(change), ["child.add"], example_inputs=X, engine="code")
    assert_taps_equal_eager(ChildThatChanges(change), ["child.add"], X)


class IdentityThenWrite(Base):
    def __init__(self):
        super().__init__()
        self.nothing = nn.Identity()

    def forward(self, x):
        y = self.linear(x)
        self.nothing(y).mul_(3)
        return self.head(y)


CASES = [
    *(AssignsData, SetsStorage, AssignsDataOfAWeight, ClampsAWeight, ListOfTensors, ScriptedStatement),
    *(FunctionStatement, OperatorStatement, ChildStatement, IdentityThenWrite),
]


def right_or_refused(kind, names, training):
    torch.manual_seed(0)
    reference = kind().train(training)
    mine = kind().train(training)
    mine.load_state_dict(reference.state_dict())
    try:
        extractor = fxfeat.create_feature_extractor(mine, names, example_inputs=X)
    except fxfeat.FxfeatError as error:
        assert kind.__name__ in str(error)
        return
    for inputs in (X, LONGER, X):
        seen, found = eager(reference, inputs), run(extractor, inputs)
        for name in names:
            assert same(found[name], seen[name][0]), f"{name}\n{extractor.code}"


@pytest.mark.parametrize("names", [["linear"], ["head"], ["linear", "head"]], ids="+".join)
@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_writes_are_right_or_refused(kind, names):
    right_or_refused(kind, names, training=False)


# -- flags and settings of children ------------------------------------------------------------------------------------


class Freezes(Base):
    """The frozen norm of detectors, done in forward."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        self.norm.eval()
        return self.head(self.norm(self.linear(x)))


class DropsAlways(Base):
    """Dropout at test time, for uncertainty."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        before = self.drop.training
        self.drop.train()
        y = self.drop(self.linear(x))
        self.drop.train(before)
        return self.head(y)


class SetsTheRate(Base):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        self.drop.p = 0.9
        return self.head(self.drop(self.linear(x)))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", [Freezes, DropsAlways, SetsTheRate], ids=lambda kind: kind.__name__)
def test_settings_of_children_are_right_or_refused(kind, training):
    right_or_refused(kind, ["head"], training)


class CallsWithOtherWeights(Base):
    def forward(self, x):
        weights = {name: held * 2 for name, held in self.linear.named_parameters()}
        return self.head(torch.func.functional_call(self.linear, weights, (x,)))


def test_a_call_with_other_weights_is_right_or_refused():
    right_or_refused(CallsWithOtherWeights, ["head"], training=False)


# -- what callers are handed -------------------------------------------------------------------------------------------


class Growing(nn.Module):
    """Blocks append to a list that the model hands them."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Appends(), Appends()])
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        kept: list[torch.Tensor] = []
        for block in self.blocks:
            x = block(x, kept)
        return self.head(x + sum(kept))


class Appends(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, kept):
        y = self.linear(x)
        kept.append(y)
        return y.relu()


class ChangesADict(nn.Module):
    """What the block returned is changed by who got it."""

    def __init__(self):
        super().__init__()
        self.block = MakesADict()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        held = self.block(x)
        held["a"] = held["a"] * 2
        held["c"] = held.pop("b")
        return self.head(held["a"] + held["c"])


class MakesADict(Appends):
    def forward(self, x):
        y = self.linear(x)
        return {"a": y, "b": y + 1}


def test_a_list_that_blocks_append_to():
    assert_equals_eager(Growing(), ["blocks.0", "blocks.1", "blocks.1.linear", "head"], X, LONGER)


def test_a_dict_that_is_changed_later():
    assert_equals_eager(ChangesADict(), ["block", "block['a']", "block['b']", "head"], X, LONGER)
