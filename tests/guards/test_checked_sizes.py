"""Sizes that the code's own checks fix are neither tried at others nor checked twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import fxfeat
from tests.opening.test_told import counting


def _asserts(x: torch.Tensor) -> None:
    torch._assert(x.shape[2] == 8, "height")


def _compares(x: torch.Tensor) -> None:
    if x.size(2) != 8:
        raise ValueError("height")


def _compares_the_other_way(x: torch.Tensor) -> None:
    height = 8
    assert height == x.shape[-2]


def _unpacks(x: torch.Tensor) -> None:
    _, _, height, _ = x.shape
    assert height == 8


def _takes_from_the_size(x: torch.Tensor) -> None:
    if x.size()[2] == 8:
        return
    raise ValueError("height")


class Fixing(nn.Module):
    def __init__(self, fix: Callable[[torch.Tensor], None]) -> None:
        super().__init__()
        self.fix, self.conv = fix, nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.fix(x)
        return self.conv(x)


FIXING = [_asserts, _compares_the_other_way, _unpacks, _compares, _takes_from_the_size]


@pytest.mark.parametrize("fix", FIXING)
def test_one_check_and_no_other_heights(fix: Callable[[torch.Tensor], None]) -> None:
    with counting() as counts:
        extractor = fxfeat.create_feature_extractor(Fixing(fix), ["conv"], example_inputs=torch.rand(2, 3, 8, 9))
    assert extractor.code.count("    check(") == 1
    # Once for both modes, and at another batch and width: with other channels the layer fails, whatever the height.
    assert counts["recordings"] == 2
    states = {status.axis: status.state for status in extractor.freedoms}
    assert states == {"batch": "free", "height": "checked", "width": "free"}
    assert extractor(torch.rand(5, 3, 8, 7))["conv"].shape == (5, 4, 8, 7)
    with pytest.raises(fxfeat.GuardError):
        extractor(torch.rand(2, 3, 9, 9))


def test_channels_that_code_decides_on_before_the_layer_are_tried() -> None:
    class Repeats(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[1] == 1:
                x = x.expand(-1, 3, -1, -1)
            return self.conv(x)

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.repeats = Repeats()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.repeats(x).flatten(1).sum(1) * x.shape[0]

    extractor = fxfeat.create_feature_extractor(Whole(), ["repeats"], example_inputs=torch.rand(2, 3, 8, 8))
    assert extractor(torch.rand(2, 1, 8, 8))["repeats"].shape == (2, 4, 8, 8)


@pytest.mark.parametrize("together", [" and ", " in "])
def test_what_only_raises_with_something_else_is_tried(together: str) -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x: torch.Tensor, strict: bool = False) -> torch.Tensor:
            if together == " and " and x.shape[2] != 8 and strict:
                raise ValueError("height")
            if together == " in " and x.shape[2] not in (6, 8):
                raise ValueError("height")
            return self.relu(x)

    model = nn.Sequential(Picky(), nn.Conv2d(3, 4, 1))
    extractor = fxfeat.create_feature_extractor(model, ["1"], example_inputs=torch.rand(2, 3, 8, 9))
    assert extractor(torch.rand(2, 3, 6, 9))["1"].shape == (2, 4, 6, 9)


def test_a_size_that_is_only_bounded_is_tried() -> None:
    def bound(x: torch.Tensor) -> None:
        assert x.shape[2] > 4

    extractor = fxfeat.create_feature_extractor(Fixing(bound), ["conv"], example_inputs=torch.rand(2, 3, 8, 9))
    assert {status.axis: status.state for status in extractor.freedoms}["height"] == "free"
    assert extractor(torch.rand(2, 3, 5, 9))["conv"].shape == (2, 4, 5, 9)


class Embeds(nn.Module):
    """Stays whole, and takes images of one size."""

    def __init__(self, shrinks: bool = False) -> None:
        super().__init__()
        self.shrinks, self.conv = shrinks, nn.Conv2d(3, 4, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.shrinks and x.shape[2] > 8:
            x = x[:, :, :8]
        torch._assert(x.shape[2] == 8, "the image has another height")
        return self.conv(x).flatten(2).mT


class Tokens(nn.Module):
    """Its own code is told the batch."""

    def __init__(self, embed: nn.Module) -> None:
        super().__init__()
        self.embed, self.block = embed, nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        return self.block(x.reshape(x.shape[0], -1, 4))


def test_sizes_that_a_whole_module_asserts_are_not_tried() -> None:
    with counting() as counts:
        extractor = fxfeat.create_feature_extractor(Tokens(Embeds()), ["block"], example_inputs=torch.rand(2, 3, 8, 8))
    assert counts["recordings"] == 2
    states = {status.axis: (status.state, status.runs) for status in extractor.freedoms}
    assert states == {"batch": ("free", True), "height": ("fixed", False), "width": ("free", True)}
    assert extractor(torch.rand(3, 3, 8, 6))["block"].shape == (3, 12, 4)
    with pytest.raises(fxfeat.GuardError, match=r"others of x.shape\[2\] were not found to run"):
        extractor(torch.rand(3, 3, 10, 8))


def test_sizes_that_are_asserted_after_a_decision_are_tried() -> None:
    model = Tokens(Embeds(shrinks=True))
    extractor = fxfeat.create_feature_extractor(model, ["block"], example_inputs=torch.rand(2, 3, 8, 8))
    taller = torch.rand(2, 3, 10, 8)
    assert torch.equal(extractor(taller)["block"], model(taller))
