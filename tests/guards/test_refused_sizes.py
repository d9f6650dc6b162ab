"""Sizes of which the model's own code says that they must be what they are: no others are tried."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import fxfeat
from tests.opening.test_told import counting

IMAGE, SIZE = torch.rand(2, 3, 64, 64), 64


class Embeds(nn.Module):
    """A patch embedding that refuses some sizes, called by code that was told the batch."""

    def __init__(self, refuse: Callable[..., None]) -> None:
        super().__init__()
        self.embed = Embedding(refuse)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.embed(x, mask) * (2 if x.shape[0] else 3)


class Embedding(nn.Module):
    def __init__(self, refuse: Callable[..., None]) -> None:
        super().__init__()
        self.refuse, self.conv = refuse, nn.Conv2d(3, 4, 8, 8)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        self.refuse(x, mask)
        return self.conv(x)


def either(x: torch.Tensor, mask: torch.Tensor | None, free: bool = False) -> None:
    height, width = x.shape[-2:]
    if not free and (height != SIZE or width != SIZE):
        raise ValueError(f"{height} by {width} is none of mine")


def both(x: torch.Tensor, mask: torch.Tensor | None) -> None:
    height, width = x.shape[-2:]
    if height != SIZE and width != SIZE:
        raise ValueError("both are other sizes")


def a_remainder(x: torch.Tensor, mask: torch.Tensor | None) -> None:
    rest = x.shape[-1] % 8
    if rest != 0:
        raise ValueError("no whole patch")


def other_than_the_mask(x: torch.Tensor, mask: torch.Tensor | None) -> None:
    if mask is not None and mask.shape[-1] != x.shape[-1]:
        raise ValueError("the mask is none of the image's")


def make(refuse: Callable[..., None], *example: torch.Tensor) -> tuple[fxfeat.FeatureExtractor, int]:
    with counting() as counts:
        extractor = fxfeat.create_feature_extractor(Embeds(refuse), ["embed", "output"], example_inputs=example)
    return extractor, counts["recordings"]


def states(extractor: fxfeat.FeatureExtractor) -> dict[tuple[str, int], str]:
    return {(status.parameter, status.dimension): status.state for status in extractor.freedoms}


def test_a_size_that_code_refuses_is_tried_once() -> None:
    extractor, recordings = make(either, IMAGE)
    assert states(extractor) == {("x", 0): "free", ("x", 2): "fixed", ("x", 3): "fixed"}
    # As it is; batch, height and width at once; the batch alone; in train mode as it is and with another batch.
    assert recordings == 5


@pytest.mark.parametrize("refuse", [a_remainder, both])
def test_sizes_that_code_takes_in_some_way_are_tried_in_others(refuse: Callable[..., None]) -> None:
    extractor, _ = make(refuse, IMAGE)
    assert states(extractor)["x", 0] == "free"
    assert extractor(torch.rand(3, 3, 64, 96))["embed"].shape == (3, 4, 8, 12)


def test_sizes_that_must_agree_change_together() -> None:
    extractor, _ = make(other_than_the_mask, IMAGE, torch.rand(2, 64))
    assert extractor(torch.rand(2, 3, 64, 32), torch.rand(2, 32))["embed"].shape == (2, 4, 8, 4)
