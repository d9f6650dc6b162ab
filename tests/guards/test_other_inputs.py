"""Inputs of another kind than the example's: a tensor that is none, a number of another type."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import fxfeat
from tests.oracle import same

X, MASK = torch.rand(2, 3, 4), torch.rand(2, 3, 1)


@dataclass
class Batch:
    x: torch.Tensor
    mask: torch.Tensor | None = None


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)


class OfADict(Base):
    def forward(self, batch):
        y = self.linear(batch["x"])
        return y if batch["mask"] is not None else y * 2


class OfADataclass(Base):
    def forward(self, batch):
        y = self.linear(batch.x)
        return y if batch.mask is not None else y * 2


class OfATuple(Base):
    def forward(self, x, past=None):
        y = self.linear(x)
        return y * 2 if past is None or past[0] is None else y


class OfANestedDict(Base):
    def forward(self, batch):
        y = self.linear(batch["x"])
        return y * 2 if batch["m"] is None else y


class OfAnObject(Base):
    def forward(self, x, batch=None):
        y = self.linear(x)
        return y * 2 if batch is None else y


class Required(Base):
    def forward(self, x, mask):
        y = self.linear(x)
        return y if mask is not None else y * 2


class Multiplies(Base):
    def forward(self, batch):
        y = self.linear(batch["x"])
        return y * batch["mask"] if batch["mask"] is not None else y


class TensorOrNumber(Base):
    def forward(self, x, scale):
        return self.linear(x) * 2 if isinstance(scale, float) else self.linear(x)


class TrueOrOne(Base):
    def forward(self, x, n=True):
        return self.linear(x) * 2 if n is True else self.linear(x) * n * 3


class Nested(Base):
    def forward(self, x, options):
        scale = options["scales"][0]
        return self.linear(x) / scale if isinstance(scale, float) else (self.linear(x) // scale).relu()


CASES = {
    "none in a dict": (
        OfADict,
        ({"x": X, "mask": MASK},),
        ({"x": X, "mask": None},),
        "isinstance(batch['mask'], torch",
    ),
    "none in a dataclass": (OfADataclass, (Batch(X, MASK),), (Batch(X),), "isinstance(batch.mask, torch.Tensor)"),
    "none in a tuple": (OfATuple, (X, (MASK, MASK)), (X, (None, None)), "isinstance(past[0], torch.Tensor)"),
    "none for a tuple": (OfATuple, (X, (MASK, MASK)), (X, None), "isinstance(past, tuple)"),
    "none for a dict in a dict": (
        OfANestedDict,
        ({"x": X, "m": {"mask": MASK}},),
        ({"x": X, "m": None},),
        "isinstance(",
    ),
    "none for an object": (OfAnObject, (X, Batch(X)), (X, None), "isinstance(batch, Batch)"),
    "a list for a tuple": (OfATuple, (X, (MASK, MASK)), (X, [MASK, MASK]), "isinstance(past, tuple)"),
    "none though required": (Required, (X, MASK), (X, None), "isinstance(mask, torch.Tensor)"),
    "none that is used": (Multiplies, ({"x": X, "mask": MASK},), ({"x": X, "mask": None},), "isinstance(batch['mask']"),
    "a tensor, a number": (TensorOrNumber, (X, torch.tensor(1.0)), (X, 1.0), "isinstance(scale, torch.Tensor)"),
    "a number, a tensor": (TensorOrNumber, (X, 1.0), (X, torch.tensor(1.0)), "scale = 1.0"),
    "a number, several": (TensorOrNumber, (X, 1.0), (X, torch.ones(4)), "scale = 1.0"),
    "a number, an array": (TensorOrNumber, (X, 1.0), (X, np.ones(4)), "scale = 1.0"),
    "a float, an int": (TensorOrNumber, (X, 1.0), (X, 1), "scale = 1.0"),
    "true, one": (TrueOrOne, (X, True), (X, 1), "n = True"),
    "a nested float": (Nested, (X, {"scales": [2.0]}), (X, {"scales": [2]}), "options = {'scales': [2.0]}"),
}


@pytest.mark.parametrize("case", CASES)
def test_another_kind_of_input_is_refused(case):
    kind, example, other, told = CASES[case]
    model = kind().eval()
    extractor = fxfeat.create_feature_extractor(model, ["output"], example_inputs=example)
    assert same(extractor(*example)["output"], model(*example))
    with pytest.raises(fxfeat.GuardError) as refused:
        extractor(*other)
    assert f"at the call: `{told}" in str(refused.value)


def test_the_only_input_is_not_asked_whether_it_is_a_tensor():
    extractor = fxfeat.create_feature_extractor(Base().linear, ["output"], example_inputs=X)
    assert "check" not in extractor.code


def test_the_question_is_part_of_the_check():
    extractor = fxfeat.create_feature_extractor(Required(), ["linear", "output"], example_inputs=(X, MASK))
    assert (
        extractor.code
        == """\
from fxfeat.runtime.check import check
import torch


def forward(self, x, mask):
    check(isinstance(x, torch.Tensor), True, 'the call: `isinstance(x, torch.Tensor)`')
    check(isinstance(mask, torch.Tensor), True, 'the call: `isinstance(mask, torch.Tensor)`')
    linear = self.linear(x)
    return {'linear': linear, 'output': linear}
"""
    )
