"""Branches that the model's Python takes: followed where they hold, refused with their file and line where not."""

from __future__ import annotations

import inspect
import math
import re

import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import assert_equals_eager, assert_taps_equal_eager, eager, pick, run, same, same_value

IMAGE = torch.randn(2, 3, 8, 8)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Conv2d(3, 2, 1)


class BranchOnBatch(Base):
    def forward(self, x):
        x = self.conv(x)
        if x.shape[0] > 1:
            x = x * 2
        return self.head(x)


class RootOfSize(Base):
    def forward(self, x):
        x = self.conv(x).flatten(2)
        side = int(x.shape[2] ** 0.5)
        x = x.reshape(x.shape[0], 3, side, side)
        return self.head(x)


class LengthOfBatch(Base):
    def forward(self, x):
        x = self.conv(x) / len(x)
        return self.head(x)


class RowByRow(Base):
    def forward(self, x):
        rows = [self.conv(row[None]) for row in x]
        return self.head(torch.cat(rows))


class LoopOverSize(Base):
    def forward(self, x):
        x = self.conv(x)
        for index in range(x.shape[0]):
            x = x + index
        return self.head(x)


class HalfSize(Base):
    def forward(self, x):
        x = self.conv(x)
        n, c, h, w = x.shape
        x = x[:, :, : h // 2, w // 2 :].reshape(n, c, -1).view(n, c, h // 2, -1)
        return self.head(x)


class MaxOfSizes(Base):
    def forward(self, x):
        x = self.conv(x)
        side = max(x.shape[2], x.shape[3])
        x = nn.functional.pad(x, (0, side - x.size(3), 0, side - x.size(2)))
        return self.head(x)


class SizeInAFormat(Base):
    def forward(self, x):
        self.note = f"{x.shape[0]} images of {x.shape[2]}x{x.shape[3]}"
        return self.head(self.conv(x))


class PadsToAMultiple(Base):
    def forward(self, x):
        blocks = x.shape[2] / 4
        if not blocks.is_integer():
            x = nn.functional.pad(x, (0, 0, 0, math.ceil(blocks) * 4 - x.shape[2]))
        return self.head(self.conv(x))


class SizeAsAKey(Base):
    def forward(self, x):
        scale = {2: 1.0, 3: 5.0}.get(x.shape[0], 9.0)
        return self.head(self.conv(x) * scale)


class SizesCompared(Base):
    def forward(self, x):
        y = self.conv(x)
        if y.shape == x.shape and y.shape[2:] == (8, 8):
            y = y + x
        return self.head(y)


class AssertsDivisible(Base):
    def forward(self, x):
        assert x.shape[2] % 4 == 0, "height must be a multiple of 4"
        return self.head(self.conv(x))


class Parity(Base):
    def forward(self, x):
        x = self.conv(x)
        if x.shape[-1] % 2:
            x = nn.functional.pad(x, (0, 1))
        return self.head(x)


class NumPySide(Base):
    def forward(self, x):
        import numpy as np

        x = self.conv(x)
        side = int(np.ceil(np.sqrt(x.shape[2] * x.shape[3])))
        x = x.flatten(2)[:, :, : side * side].mean(-1, keepdim=True)[..., None] * side
        return self.head(x)


class ItemDecides(Base):
    def forward(self, x):
        x = self.conv(x)
        if x.mean().item() > 0:
            x = x + 1
        else:
            x = x - 1
        return self.head(x)


class TensorDecides(Base):
    def forward(self, x):
        x = self.conv(x)
        if x.sum() > 0:
            x = x + 1
        else:
            x = x - 1
        return self.head(x)


class ItemScales(Base):
    def forward(self, x):
        x = self.conv(x)
        return self.head(x * x.abs().max().item())


class ThroughNumPy(Base):
    def forward(self, x):
        x = self.conv(x)
        mean = x.detach().numpy().mean()
        return self.head(x * float(mean))


class NonZero(Base):
    def forward(self, x):
        x = self.conv(x)
        kept = x[x[:, 0, 0, 0].abs() > 100]
        if len(kept) == 0:
            kept = x
        return self.head(kept)


SMALLER = torch.randn(1, 3, 8, 8)
LARGER = torch.randn(3, 3, 8, 8)
WIDER = torch.randn(2, 3, 8, 12)
BIGGER = torch.randn(3, 3, 12, 16)
ODD = torch.randn(2, 3, 8, 9)
POSITIVE, NEGATIVE = torch.full((2, 3, 8, 8), 9.0), torch.full((2, 3, 8, 8), -9.0)

# The model, the inputs on which the answer has to be eager's, and those on which a GuardError will do.
CASES = [
    (BranchOnBatch, [LARGER, BIGGER], [SMALLER]),
    (LengthOfBatch, [], [LARGER, SMALLER, BIGGER]),
    (HalfSize, [LARGER, SMALLER, WIDER, BIGGER], []),
    (SizeInAFormat, [], [LARGER, SMALLER, BIGGER]),
    (PadsToAMultiple, [LARGER, BIGGER], [torch.randn(2, 3, 10, 8)]),
    (RootOfSize, [LARGER, SMALLER], [torch.randn(2, 3, 16, 16)]),
    (RowByRow, [], [LARGER, SMALLER, WIDER]),
    (LoopOverSize, [], [LARGER, SMALLER, WIDER]),
    (MaxOfSizes, [LARGER], [WIDER, torch.randn(2, 3, 12, 8)]),
    (SizeAsAKey, [WIDER], [LARGER, SMALLER]),
    (SizesCompared, [], [LARGER, WIDER]),
    (AssertsDivisible, [LARGER, WIDER], [torch.randn(2, 3, 12, 8)]),
    (Parity, [LARGER], [WIDER, ODD]),
    (NumPySide, [LARGER], [WIDER, BIGGER]),
    (ItemDecides, [], [POSITIVE, NEGATIVE, LARGER]),
    (TensorDecides, [], [POSITIVE, NEGATIVE, LARGER]),
    (NonZero, [], [LARGER, WIDER]),
]


def guarded(model, names, inputs) -> bool:
    """Assert that each feature is eager's, or that a GuardError says otherwise; say whether it did."""
    extractor = fxfeat.create_feature_extractor(model, names, example_inputs=IMAGE)
    seen = eager(model, inputs)
    try:
        found = run(extractor, inputs)
    except fxfeat.GuardError:
        return True
    for name in names:
        assert same_value(found[name], pick(model, seen, name)), f"{name}\n{extractor.code}"
    return False


@pytest.mark.parametrize("names", [["head"], ["conv", "output"]], ids="+".join)
@pytest.mark.parametrize(("model", "right", "either"), CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_right_or_refused(model, right, either, names):
    model = model().eval()
    for inputs in (IMAGE, *right):
        assert not guarded(model, names, inputs)
    for inputs in either:
        guarded(model, names, inputs)


@pytest.mark.parametrize("model", [case[0] for case in CASES], ids=lambda case: case.__name__)
def test_a_child_with_the_branch_inside_is_called_whole(model):
    """What stays whole is right for every input."""
    whole = nn.Sequential(model(), nn.Conv2d(2, 2, 1)).eval()
    extractor = fxfeat.create_feature_extractor(whole, ["0", "1"], example_inputs=IMAGE)
    assert extractor.guards == ()
    for inputs in (IMAGE, LARGER, SMALLER, POSITIVE, NEGATIVE):
        seen, found = eager(whole, inputs), run(extractor, inputs)
        assert same(found["0"], seen["0"][0])
        assert same(found["1"], seen["1"][0])


@pytest.mark.parametrize("model", [ItemScales, ThroughNumPy], ids=lambda case: case.__name__)
def test_a_value_that_leaves_torch_is_eagers_or_a_clear_error(model):
    model = model().eval()
    for names in (["conv"], ["head"]):
        try:
            extractor = fxfeat.create_feature_extractor(model, names, example_inputs=IMAGE)
        except fxfeat.FxfeatError as error:
            assert names == ["head"]
            assert "test_decisions.py:" in str(error)
            continue
        for inputs in (IMAGE, POSITIVE, LARGER):
            assert same(run(extractor, inputs)[names[0]], eager(model, inputs)[names[0]][0])


def test_a_value_that_leaves_torch_names_file_and_line():
    line = inspect.getsourcelines(ThroughNumPy.forward)[1] + 2
    with pytest.raises(fxfeat.TraceError) as caught:
        fxfeat.create_feature_extractor(ThroughNumPy().eval(), ["head"], example_inputs=IMAGE, engine="code")
    assert_taps_equal_eager(ThroughNumPy().eval(), ["head"], IMAGE)
    assert str(caught.value) == (
        f"In ThroughNumPy, a value leaves torch at {__file__}:{line}: `mean = x.detach().numpy().mean()`, so what "
        "follows from it cannot be written down. Ask for features outside what it leads to."
    )


def test_the_error_names_file_line_and_source():
    extractor = fxfeat.create_feature_extractor(BranchOnBatch().eval(), ["head"], example_inputs=IMAGE)
    line = inspect.getsourcelines(BranchOnBatch.forward)[1] + 2
    with pytest.raises(fxfeat.GuardError) as caught:
        extractor(SMALLER)
    assert str(caught.value) == (
        f"This input takes another path than the recorded one: at {__file__}:{line}: `if x.shape[0] > 1:` the recording"
        " saw True, this input gives False. Create the extractor again with example_inputs= like this input."
    )


class BranchOnDevice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        y = self.conv(x)
        return y * 2 if y.is_cpu else y * 3


def test_a_branch_on_the_device_is_checked():
    """An extractor that was made on one device and moved to another would do what the model does on the first."""
    model = BranchOnDevice().eval()
    extractor = fxfeat.create_feature_extractor(model, ["mul"], example_inputs=IMAGE)
    assert same(run(extractor, IMAGE)["mul"], model(IMAGE))
    line = inspect.getsourcelines(BranchOnDevice.forward)[1] + 2
    assert [str(held) for held in extractor.guards] == [
        f"{__file__}:{line}: `return y * 2 if y.is_cpu else y * 3` is True"
    ]
    with pytest.raises(fxfeat.GuardError, match="the recording saw True, this input gives False"):
        extractor.to("meta")(IMAGE.to("meta"))


def test_guards_are_listed():
    extractor = fxfeat.create_feature_extractor(BranchOnBatch().eval(), ["head"], example_inputs=IMAGE)
    line = inspect.getsourcelines(BranchOnBatch.forward)[1] + 2
    assert [str(guard) for guard in extractor.guards] == [f"{__file__}:{line}: `if x.shape[0] > 1:` is True"]


def test_a_branch_after_the_feature_is_not_checked():
    extractor = fxfeat.create_feature_extractor(BranchOnBatch().eval(), ["conv"], example_inputs=IMAGE)
    assert extractor.guards == ()
    assert extractor(SMALLER)["conv"].shape == (1, 3, 8, 8)


def test_the_other_branch_is_recorded_with_another_example():
    assert_equals_eager(BranchOnBatch(), ["conv", "head"], SMALLER)


def test_code_of_sizes():
    extractor = fxfeat.create_feature_extractor(HalfSize().eval(), ["head"], example_inputs=IMAGE)
    assert "8" not in re.sub(r"getattr|self", "", extractor.code)
    assert not re.search(r"\b4\b", extractor.code)
    assert "// 2" in extractor.code
