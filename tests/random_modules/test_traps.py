"""Each counterexample that random modules brought up, by name and as small as it goes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import eager, pick, run, same_value

X = torch.randn(2, 3, 4, 4)
ONE = torch.randn(1, 3, 4, 4)
ODD = torch.randn(2, 3, 4, 5)
TURNED = torch.randn(2, 4, 4, 3).transpose(1, 3)


class LastBranchChoosesTheResult(nn.Module):
    """No operation follows the branch, and still it decides what is returned."""

    def forward(self, x):
        y = x * 2
        if y.shape[-1] % 2 == 0:
            return y
        return x


class LastBranchInAnExpression(nn.Module):
    def forward(self, x):
        y = x.amax(1, keepdim=True)
        z = y if y.shape[0] > 1 else y * 2
        return z, {"aux": (y, None)}


class OpenedBlockEndsWithABranch(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = BlockEndsWithABranch()

    def forward(self, x):
        return self.block(x) + 1


class BlockEndsWithABranch(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        y = self.conv(x)
        if y.shape[0] == 1:
            return x
        return y


class AnotherStructureThatIsOverwritten(nn.Module):
    """A block returns a tuple or a tensor, and what it may have returned as it came is written over."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(3))

        def forward(self, x, y):
            self.mean.mul_(0.9).add_(y.detach().mean((0, 2, 3)), alpha=0.1)
            y = y + 1
            return y if y.shape[-1] % 2 == 0 else (y, y.shape[0])

    def __init__(self):
        super().__init__()
        self.block, self.norm = self.Block(), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.norm(x)
        with torch.no_grad():
            self.block(y, y)[0]
        y.mul_(2)
        return y


class GoesThroughASqueezedShape(nn.Module):
    def forward(self, x):
        y = x.squeeze(0)
        return y + max(y.shape)


class LengthAsksForOneRow(nn.Module):
    def __init__(self):
        super().__init__()
        self.elu = nn.ELU(inplace=True)

    def forward(self, x):
        y = x * 2
        if len(y) > 1:
            self.elu(y)
        return self.elu(x)


class MemoryExchanged(nn.Module):
    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        y = self.dropout(x + 1)
        y.data = y.data * 2
        return [y, y]


class BlockNamedAsAnOperation(nn.Module):
    """``mul`` is what the module returned, not the multiplication."""

    def __init__(self):
        super().__init__()
        self.mul = nn.Sequential(nn.MaxPool2d(2), nn.Flatten())

    def forward(self, x):
        return self.mul(x * 2)


class TupleBlockNamedAsAnOperation(nn.Module):
    def __init__(self):
        super().__init__()
        self.getitem = ReturnsAPair()

    def forward(self, x):
        return self.getitem(x[:, :2])[0]


class ReturnsAPair(nn.Module):
    def forward(self, x):
        return x + 1, x.shape[0]


class WholeBlockHandsItsInputBackForOneRow(nn.Module):
    """What shares memory with what depends on the size, in a module that is not opened."""

    def __init__(self):
        super().__init__()
        self.block = InputForOneRow()

    def forward(self, x):
        y = self.block(x)
        x.fill_(1.5)
        return y + x


class InputForOneRow(nn.Module):
    def forward(self, x):
        if x.shape[0] == 1:
            return x
        return x * 2


class WriteReachesTheInputForOneRow(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = InputForOneRow()
        self.head = nn.Identity()

    def forward(self, x):
        y = self.block(x)
        y.fill_(1.5)
        return self.head(x + 1)


class ContiguousCopiesOrNot(nn.Module):
    def __init__(self):
        super().__init__()
        self.identity = nn.Identity()

    def forward(self, x):
        y = self.identity(x.contiguous())
        x.fill_(1.5)
        return y + x


class FlattenCopiesOrNot(ContiguousCopiesOrNot):
    def forward(self, x):
        y = self.identity(x.flatten(1))
        x.fill_(1.5)
        return y.sum() + x


class FloatCopiesOrNot(ContiguousCopiesOrNot):
    def forward(self, x):
        y = self.identity(x.float())
        x.fill_(1.5)
        return y + x


class WholeBlockReturnsAListOrATensor(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = ListOrTensor()

    def forward(self, x):
        self.block(x)
        return x * 2


class ListOrTensor(nn.Module):
    def forward(self, x):
        if x.shape[0] == 1:
            return x
        return [x + 1, x + 1]


class HeldByTheModule(nn.Module):
    """A tensor kept as an attribute for the rest of this call, which no later call reads."""

    def __init__(self):
        super().__init__()
        self.held = None
        self.head = nn.Identity()

    def forward(self, x):
        self.held = x * 2
        return self.head(self.held + 1)


class PartIsHandedOutLaterThanTheRest(nn.Module):
    """``block@0`` returns two tensors: one leaves ``outer`` untouched, the other is written over before that."""

    def __init__(self):
        super().__init__()
        self.outer = WritesToAPart()

    def forward(self, x):
        x, y = self.outer(x)
        return x + 1, y


class WritesToAPart(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = DoublesAndKeeps()

    def forward(self, x):
        first, kept = self.block(x)
        second, _ = self.block(first)
        return second, kept


class DoublesAndKeeps(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = nn.Tanh()

    def forward(self, x):
        kept = x * 1
        x.mul_(2)
        return self.act(x), kept


class LoopsByTheSize(nn.Module):
    def forward(self, x):
        while x.shape[-1] > 3:
            x = x[..., :-1] * 2
        return x


class OperationAfterALoop(nn.Module):
    """How many operations run before ``getitem`` depends on the size."""

    def __init__(self):
        super().__init__()
        self.block = LoopsByTheSize()

    def forward(self, x):
        return self.block(x).sum() + x[..., 0]


class AddsToWhatIsFloatAlready(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        y = self.conv(x)
        with torch.no_grad():
            y = y.float()
        y.add_(x)
        return y * 2


CASES = [
    (PartIsHandedOutLaterThanTheRest, ["outer.block@0", "output"], X, ONE),
    (LastBranchChoosesTheResult, ["output"], X, ODD),
    (LastBranchInAnExpression, ["output", "output[0]"], X, ONE),
    (OpenedBlockEndsWithABranch, ["block", "block.conv"], X, ONE),
    (AnotherStructureThatIsOverwritten, ["block", "block[0]", "norm", "output"], ODD, X),
    (GoesThroughASqueezedShape, ["output"], X, ONE),
    (LengthAsksForOneRow, ["elu"], X, ONE),
    (MemoryExchanged, ["dropout", "output"], X, ONE),
    (BlockNamedAsAnOperation, ["mul", "mul@0", "mul.0"], X, ONE),
    (TupleBlockNamedAsAnOperation, ["getitem", "getitem[0]"], X, ONE),
    (WholeBlockHandsItsInputBackForOneRow, ["block", "output"], X, ONE),
    (WriteReachesTheInputForOneRow, ["head"], X, ONE),
    (ContiguousCopiesOrNot, ["identity", "output"], TURNED, X),
    (FlattenCopiesOrNot, ["identity", "output"], TURNED, X),
    (FloatCopiesOrNot, ["identity", "output"], X.double(), X),
    (WholeBlockReturnsAListOrATensor, ["block", "output"], X, ONE),
]


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize(("kind", "names", "example", "other"), CASES, ids=lambda held: getattr(held, "__name__", ""))
def test_value_is_that_of_eager_or_refused(kind, names, example, other, flatten):
    reference = kind().eval()
    try:
        extractor = fxfeat.create_feature_extractor(
            copy.deepcopy(reference), names, example_inputs=example, flatten=flatten
        )
        for inputs in (example, other):
            found, seen = run(extractor, inputs), eager(reference, inputs)
            for name in names:
                assert same_value(found[name], pick(reference, seen, name)), f"{name}:\n{extractor.code}"
    except fxfeat.FxfeatError:
        assert kind not in (BlockNamedAsAnOperation, TupleBlockNamedAsAnOperation)


@pytest.mark.parametrize(
    ("kind", "names"), [(OperationAfterALoop, ["getitem"]), (AddsToWhatIsFloatAlready, ["float", "mul"])]
)
def test_an_operation_is_that_of_eager(kind, names):
    model = kind()
    extractor = fxfeat.create_feature_extractor(model, names, example_inputs=X)
    for inputs in (X, ODD):
        assert fxfeat.verify(model, extractor, inputs).ok


def test_a_module_may_hold_a_tensor_for_the_rest_of_the_call():
    model = HeldByTheModule()
    extractor = fxfeat.create_feature_extractor(model, ["mul", "head"], example_inputs=X)
    assert fxfeat.verify(model, extractor, X).ok
    assert fxfeat.verify(model, extractor, ONE).ok


# -- values that are tuples --------------------------------------------------------------------------------------------


class SplitThenWritten(nn.Module):
    def forward(self, x):
        left, _ = (x * 2).split([1, 2], 1)
        left.add_(1)
        return left


class SortedThenWritten(nn.Module):
    def forward(self, x):
        x.sort(-1)[0].mul_(2)
        return x


@pytest.mark.parametrize(("kind", "name"), [(SplitThenWritten, "split"), (SortedThenWritten, "sort")])
def test_a_tuple_that_is_written_over_later_is_copied(kind, name):
    model = kind()
    with torch.no_grad():
        extractor = fxfeat.create_feature_extractor(model, [name, "output"], example_inputs=X)
        assert fxfeat.verify(model, extractor, X).ok


# -- verify ------------------------------------------------------------------------------------------------------------


class ScribblesOnItsInput(nn.Module):
    def forward(self, x):
        x.add_(1)
        return x * 2


class CountsByAssignment(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.relu = nn.ReLU()

    def forward(self, x):
        self.count = self.count + 1
        return self.relu(x * self.count)


class AveragesInPlace(CountsByAssignment):
    def forward(self, x):
        self.count.mul_(0.9).add_(x.detach().mean(), alpha=0.1)
        return self.relu(x * self.count)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (ScribblesOnItsInput, ["x", "mul"]),
        (CountsByAssignment, ["mul", "relu"]),
        (AveragesInPlace, ["mul", "relu", "add_"]),
        (AveragesInPlace, ["add_"]),
    ],
)
def test_verify_runs_both_from_the_same_state_and_leaves_none(kind, names):
    model, given = kind(), X.clone()
    extractor = fxfeat.create_feature_extractor(model, names, example_inputs=X)
    for _ in range(2):
        assert fxfeat.verify(model, extractor, given).ok
    assert torch.equal(given, X)


class WritesToEachRow(nn.Module):
    def forward(self, x):
        [row.add_(1) for row in x.unbind(0)]
        return x * 2


def test_a_tuple_of_another_length_is_refused():
    model = WritesToEachRow()
    extractor = fxfeat.create_feature_extractor(model, ["unbind", "mul"], example_inputs=X)
    assert fxfeat.verify(model, extractor, X).ok
    with pytest.raises(fxfeat.GuardError):
        extractor(ONE)


class CallsAgainBehindABranch(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.ReLU())

    def forward(self, x):
        y = self.block(x * 2)
        if len(y) > 1:
            return y
        return self.block(y - 1)


def test_a_bare_name_means_the_last_call_of_the_example():
    model = CallsAgainBehindABranch()
    extractor = fxfeat.create_feature_extractor(model, ["block"], example_inputs=X)
    seen = eager(model, ONE)
    assert len(seen["block"]) == 2
    assert torch.equal(extractor(ONE)["block"], seen["block"][0])
    again = fxfeat.create_feature_extractor(model, ["block"], example_inputs=ONE)
    assert torch.equal(again(ONE)["block"], seen["block"][1])
    with pytest.raises(fxfeat.GuardError):
        again(X)


class WritesToItsInputOrToACopy(nn.Module):
    def forward(self, y):
        if len(y) == 1:
            y = y + 1
        y.mul_(2)
        return y


class ReturnsADictOfThat(WritesToItsInputOrToACopy):
    def forward(self, y):
        y = super().forward(y)
        return {"out": y, "aux": [y]}


class LeavesItsResultUnused(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        y = x + 1
        self.block(y)
        return y


@pytest.mark.parametrize("block", [WritesToItsInputOrToACopy(), ReturnsADictOfThat()])
@pytest.mark.parametrize("names", [["block", "output"], ["output"]])
def test_what_a_block_wrote_to_is_not_what_it_returned(block, names):
    model = LeavesItsResultUnused(block)
    extractor = fxfeat.create_feature_extractor(model, names, example_inputs=X)
    for inputs in (X, ONE):
        seen, found = eager(model, inputs), run(extractor, inputs)
        assert all(same_value(found[name], seen[name][0]) for name in names)
