"""A feature has the value it had when it was produced, whatever is written over it later."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxfeat
from tests.oracle import assert_equals_eager, eager, run, same, tap

X = torch.randn(2, 4)
LONGER = torch.randn(5, 4)


class LinearThenInPlaceReLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.relu(self.linear(x)))


class MulStatement(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        y = self.linear(x)
        y.mul_(2)
        z = y + 1
        tap("add", z)
        return z


class FunctionalReLUStatement(MulStatement):
    def forward(self, x):
        y = self.linear(x)
        F.relu(y, inplace=True)
        z = y + 1
        tap("add", z)
        return z


class TorchReLUStatement(MulStatement):
    def forward(self, x):
        y = self.linear(x)
        z = y - 1
        tap("sub", z)
        torch.relu_(z)
        w = z + y
        tap("add", w)
        return w


class ModuleStatement(MulStatement):
    def forward(self, x):
        y = self.linear(x)
        nn.ReLU(inplace=True)(y)
        z = y + 1
        tap("add", z)
        return z


class AliasedAdd(MulStatement):
    def forward(self, x):
        y = self.linear(x)
        alias = y
        y += x
        tap("add", y)
        z = alias * 2
        tap("mul", z)
        return z


class ItemAssigned(MulStatement):
    def forward(self, x):
        y = self.linear(x)
        y[:, 0] = 0
        z = y * 2
        tap("mul", z)
        return z


class ItemOfInput(MulStatement):
    """The model scribbles on what the caller passed."""

    def forward(self, x):
        x[:, 0] = 0
        y = self.linear(x)
        x.mul_(3)
        z = y + x
        tap("add", z)
        return z


class ThroughView(MulStatement):
    def forward(self, x):
        y = self.linear(x)
        y.view(-1)[1:3] = 7.0
        z = y * 2
        tap("mul", z)
        return z


class ThroughChunk(MulStatement):
    def forward(self, x):
        y = self.linear(x).detach()
        left, right = y.chunk(2, 1)
        left.sigmoid_()
        right.add_(left)
        z = y * 2
        tap("mul", z)
        return z


class ThroughTranspose(MulStatement):
    def forward(self, x):
        y = self.linear(x)
        y.t()[0].zero_()
        z = y * 2
        tap("mul", z)
        return z


class ThroughData(MulStatement):
    def forward(self, x):
        y = self.linear(x)
        y.data.clamp_(min=0)
        z = y * 2
        tap("mul", z)
        return z


class ThroughDetach(MulStatement):
    def forward(self, x):
        y = self.linear(x)
        y.detach().clamp_(min=0)
        z = y * 2
        tap("mul", z)
        return z


class ThroughOut(MulStatement):
    def forward(self, x):
        y = self.linear(x).detach()
        tap("detach", y)
        torch.add(x.detach(), 1, out=y)
        z = y * 2
        tap("mul", z)
        return z


class ThroughDiagonalAndIndexPut(MulStatement):
    def forward(self, x):
        y = self.linear(x)
        y.diagonal().fill_(1.0)
        y[y > 0.5] = 0.5
        z = y * 2
        tap("mul", z)
        return z


class SharedSkip(nn.Module):
    """The skip connection is overwritten by the branch's in-place activation."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.block = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4))

    def forward(self, x):
        y = self.first(x)
        z = y + self.block(y)
        tap("add", z)
        return z


class BlockBeginsInPlace(nn.Module):
    """What ``first`` returned is overwritten inside the next block."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(
            nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)),
            nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4)),
            nn.Sequential(nn.Hardtanh(inplace=True), nn.Linear(4, 4)),
        )

    def forward(self, x):
        return self.blocks(x)


CASES = [
    (LinearThenInPlaceReLU, ["linear", "relu", "head"]),
    (MulStatement, ["linear", "add"]),
    (FunctionalReLUStatement, ["linear", "add"]),
    (TorchReLUStatement, ["linear", "sub", "add"]),
    (ModuleStatement, ["linear", "add"]),
    (AliasedAdd, ["linear", "add", "mul"]),
    (ItemAssigned, ["linear", "mul"]),
    (ItemOfInput, ["linear", "add"]),
    (ThroughView, ["linear", "mul"]),
    (ThroughChunk, ["linear", "mul"]),
    (ThroughTranspose, ["linear", "mul"]),
    (ThroughData, ["linear", "mul"]),
    (ThroughDetach, ["linear", "mul"]),
    (ThroughOut, ["detach", "mul"]),
    (ThroughDiagonalAndIndexPut, ["linear", "mul"]),
    (SharedSkip, ["first", "block", "block.0", "add"]),
    (BlockBeginsInPlace, ["blocks.0", "blocks.1", "blocks.1.0", "blocks.2", "blocks.0.0"]),
]


@pytest.mark.parametrize(("model", "names"), CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_every_value_is_the_one_produced(model, names):
    assert_equals_eager(model(), names, X, LONGER)


def test_the_input_as_a_feature_is_what_the_user_passed():
    extractor = fxfeat.create_feature_extractor(ItemOfInput(), ["x", "add"], example_inputs=X)
    assert same(run(extractor, X)["x"], X)


def test_the_users_own_input_is_overwritten_exactly_as_eager_overwrites_it():
    model = ItemOfInput()
    extractor = fxfeat.create_feature_extractor(model, ["add"], example_inputs=X)
    given, mine = X.clone(), X.clone()
    model(given)
    extractor(mine)
    assert not same(given, X)
    assert same(mine, given)


def test_the_users_input_is_spared_what_comes_after_the_last_feature():
    extractor = fxfeat.create_feature_extractor(ItemOfInput(), ["linear"], example_inputs=X)
    mine, expected = X.clone(), X.clone()
    expected[:, 0] = 0
    extractor(mine)
    assert same(mine, expected)


def test_the_example_is_not_written_over():
    example = X.clone()
    fxfeat.create_feature_extractor(ItemOfInput(), ["add"], example_inputs=example)
    assert same(example, X)


def test_one_value_is_one_whatever_else_is_asked():
    model = LinearThenInPlaceReLU()
    alone = fxfeat.create_feature_extractor(model, ["linear"], example_inputs=X)(X)["linear"]
    together = fxfeat.create_feature_extractor(model, ["head", "relu", "linear"], example_inputs=X)(X)["linear"]
    assert same(alone, together)
    assert same(alone, eager(model, X)["linear"][0])


IMAGE = torch.randn(2, 3, 8, 8)


class ConvThenInPlaceReLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.head(self.relu(self.conv(x)))


class ConvThenMul(ConvThenInPlaceReLU):
    def forward(self, x):
        y = self.conv(x)
        y.mul_(2)
        return self.head(y)


def test_conv_alone_drops_the_activation():
    extractor = fxfeat.create_feature_extractor(ConvThenInPlaceReLU(), ["conv"], example_inputs=IMAGE)
    assert extractor.code == "def forward(self, x):\n    conv = self.conv(x)\n    return {'conv': conv}\n"


def test_conv_with_the_activation_is_cloned_once():
    extractor = fxfeat.create_feature_extractor(ConvThenInPlaceReLU(), ["conv", "relu"], example_inputs=IMAGE)
    assert extractor.code == (
        "import torch\n\n\ndef forward(self, x):\n    conv = self.conv(x)\n    clone = torch.clone(conv)\n"
        "    relu = self.relu(clone)\n    return {'conv': conv, 'relu': relu}\n"
    )


def test_nothing_is_cloned_without_need():
    extractor = fxfeat.create_feature_extractor(ConvThenInPlaceReLU(), ["relu", "head"], example_inputs=IMAGE)
    assert extractor.code == (
        "def forward(self, x):\n    x = self.conv(x)\n    relu = self.relu(x)\n    head = self.head(relu)\n"
        "    return {'relu': relu, 'head': head}\n"
    )


def test_a_statement_before_the_feature_is_kept():
    extractor = fxfeat.create_feature_extractor(ConvThenMul(), ["head"], example_inputs=IMAGE)
    assert extractor.code == (
        "def forward(self, x):\n    x = self.conv(x)\n    x = x.mul_(2)\n    head = self.head(x)\n"
        "    return {'head': head}\n"
    )


def test_a_statement_after_the_feature_is_dropped():
    extractor = fxfeat.create_feature_extractor(ConvThenMul(), ["conv"], example_inputs=IMAGE)
    assert extractor.code == "def forward(self, x):\n    conv = self.conv(x)\n    return {'conv': conv}\n"


@pytest.mark.parametrize(
    ("model", "names"), CASES[:1] + CASES[2:5] + CASES[14:], ids=lambda case: getattr(case, "__name__", "")
)
def test_flattened_code_gives_the_same(model, names):
    assert_equals_eager(model(), names, X, LONGER, flatten=True)


class WrittenThroughAnAlias(nn.Module):
    """Returns what it has written to through another name for it."""

    def __init__(self, alias: nn.Module, returned: str) -> None:
        super().__init__()
        self.first, self.alias, self.returned = nn.Linear(4, 4), alias, returned

    def forward(self, x):
        y = self.first(x)
        z = self.alias(y)
        z += 2
        return {"tensor": y, "tuple": (y, z), "dict": {"y": y}, "used": y * 1}[self.returned]


@pytest.mark.parametrize("alias", [nn.Identity(), nn.Dropout(0.1), nn.Flatten(0), nn.ReLU(inplace=True)])
@pytest.mark.parametrize("returned", ["tensor", "tuple", "dict", "used"])
def test_what_is_returned_shows_what_was_written_through_a_feature_over_its_memory(alias, returned):
    model = WrittenThroughAnAlias(alias, returned).eval()
    assert_equals_eager(model, ["first", "alias", "output"], torch.randn(3, 4), modes=(False,))
