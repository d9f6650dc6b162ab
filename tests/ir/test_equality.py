"""Tensors of every kind are compared by their values."""

from __future__ import annotations

import pytest
import torch

from fxfeat.ir.equality import is_equal

NUMBERS = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
KINDS = {
    "floats": NUMBERS,
    "none of a number": NUMBERS / 0.0,
    "complex": torch.complex(NUMBERS, NUMBERS / 0.0),
    "whole numbers": NUMBERS.long(),
    "truths": NUMBERS > 0,
    "eight bits": NUMBERS.to(torch.float8_e4m3fn),
    "sparse": NUMBERS.to_sparse(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_equal_and_a_change_is_not(kind):
    value = KINDS[kind]
    assert is_equal(value, value.clone())
    changed = value.to_dense().clone()
    changed[0, 1] = 0
    assert not is_equal(value, changed.to_sparse() if value.is_sparse else changed)


@pytest.mark.filterwarnings("ignore:.*quantize")
def test_quantized_values():
    left, right = (torch.quantize_per_tensor(held, 0.1, 0, torch.qint8) for held in (NUMBERS, NUMBERS + 1))
    assert is_equal(left, left.clone())
    assert not is_equal(left, right)


@pytest.mark.parametrize("other", [NUMBERS.double(), NUMBERS[:1], NUMBERS.flatten()])
def test_other_dtypes_and_shapes_are_not_equal(other):
    assert not is_equal(NUMBERS, other)


def test_a_view_that_autograd_allows_no_more_operations_on():
    base = torch.ones(2, 4, requires_grad=True) * 1
    _, view = base.chunk(2, 1)
    base.mul_(2)
    assert is_equal(view, torch.full((2, 2), 2.0))
