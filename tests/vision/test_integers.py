"""Ints, NumPy's integers, ranges, lists and tensors ask for levels alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fxfeat import RequestError
from fxfeat.vision.level_indices import Wording, read_level_indices

WORDING = Wording("indices", "an int or several", ".", ".")


@pytest.mark.parametrize(
    "given", ((1, 2), [1, 2], range(1, 3), np.array([1, 2]), torch.tensor([1, -1]), [np.int8(1), 2])
)
def test_several(given):
    read = read_level_indices(given, 3, WORDING)
    assert read == (1, 2) and all(type(index) is int for index in read)


@pytest.mark.parametrize("given", (2, np.int64(2), np.array(2), torch.tensor(2)))
def test_the_last_few(given):
    assert read_level_indices(given, 3, WORDING) == (1, 2)


@pytest.mark.parametrize("wrong", (True, 1.0, "12", {1, 2}, [True], np.array([1.0]), [[1]], None))
def test_no_integers(wrong):
    with pytest.raises(RequestError) as caught:
        read_level_indices(wrong, 3, WORDING)
    assert str(caught.value) == f"indices is {wrong!r}; it must be an int or several."
