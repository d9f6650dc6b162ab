"""What a module that stays whole might do on a branch that the example did not take."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import eager, run, same

X = torch.randn(2, 3, 4, 4)
ONE = torch.randn(1, 3, 4, 4)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)


class AssertsThenWritesToItsOwn(Block):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        assert x.ndim == 4
        return self.relu(self.conv(x))


class DoublesOneRowInPlace(Block):
    def forward(self, x):
        if x.shape[0] == 1:
            x.mul_(2)
        return self.conv(x)


class DoublesOneRow(Block):
    def forward(self, x):
        if x.shape[0] == 1:
            return self.conv(x * 2)
        return self.conv(x)


class WritesByAFunction(Block):
    def forward(self, x):
        if len(x) == 1:
            double(x)
        return self.conv(x)


class WritesByAMethod(Block):
    def forward(self, x):
        if len(x) == 1:
            self.double(x)
        return self.conv(x)

    def double(self, x):
        x[:] = x * 2


class WritesByAKeyword(Block):
    def forward(self, x):
        if len(x) == 1:
            torch.mul(x, 2, out=x)
        return self.conv(x)


def double(x):
    x *= 2


class Around(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 1)
        self.block = block

    def forward(self, x):
        return self.block(self.stem(x)) + 1


WRITING = [DoublesOneRowInPlace, WritesByAFunction, WritesByAMethod, WritesByAKeyword]


@pytest.mark.parametrize("kind", [*WRITING, DoublesOneRow, AssertsThenWritesToItsOwn])
def test_a_feature_is_what_it_was_before_the_block_at_any_size(kind):
    model = Around(kind())
    with torch.no_grad():
        extractor = fxfeat.create_feature_extractor(model, ["stem", "block"], example_inputs=X)
        for inputs in (X, ONE):
            seen, found = eager(model, inputs), run(extractor, inputs)
            assert all(same(found[name], seen[name][0]) for name in ("stem", "block"))


@pytest.mark.parametrize("kind", [*WRITING, DoublesOneRow, AssertsThenWritesToItsOwn])
def test_only_what_may_be_written_over_is_cloned(kind):
    extractor = fxfeat.create_feature_extractor(Around(kind()), ["stem", "block"], example_inputs=X)
    assert ("clone" in extractor.code) == (kind in WRITING)


class HandsItsParameterToABlockThatMayWrite(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, 1, 1))
        self.first, self.second = DoublesOneRowInPlace(), DoublesOneRowInPlace()

    def forward(self, x):
        y = self.first(x + self.scale)
        return self.second(y.mul(self.scale)) + self.first(self.scale.expand(2, 3, 4, 4).contiguous())


def test_what_may_be_written_is_not_taken_for_what_is():
    model = HandsItsParameterToABlockThatMayWrite()
    extractor = fxfeat.create_feature_extractor(model, ["first@0"], example_inputs=X)
    assert fxfeat.verify(model, extractor, X).ok
