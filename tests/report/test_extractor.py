"""How an extractor prints."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console
from torch import nn

import fxfeat
from fxfeat.codegen.extractor import FeatureExtractor
from fxfeat.report.extractor_table import render_extractor


class Stacked(nn.Module):
    """Three parts, of which the last can be pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 3)
        self.body = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
        self.head = nn.Linear(2, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.stem(x)))


def make(request: object) -> FeatureExtractor:
    model = Stacked().eval()
    return fxfeat.create_feature_extractor(model, request, example_inputs=torch.rand(2, 5, 4))


def show(extractor: FeatureExtractor, width: int = 100) -> str:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(extractor)
    return captured.get()


def test_repr_says_what_is_returned_opened_and_kept():
    lines = [line.strip() for line in repr(make({"body.0": "low", "body": "body"})).splitlines()]
    assert lines[1:4] == ["'low': body.0 (2, 5, 2) float32", "'body': (2, 5, 2) float32", "opened: body"]
    assert "parameters: 38 before, 23 after (60.5% kept)" in lines


def test_table():
    lines = [line.rstrip() for line in show(make({"body.0": "low"})).splitlines()]
    assert lines[0] == "FeatureExtractor of Stacked, eval mode"
    assert lines[1] == "key   name     shape       dtype"
    assert lines[3] == "low   body.0   (2, 5, 2)   float32"
    assert lines[4] == "opened: body"
    assert "parameters: 38 before, 23 after (60.5% kept)" in lines


def test_a_structure_shows_its_shapes():
    model = nn.Sequential(nn.LSTM(4, 3, batch_first=True))
    extractor = fxfeat.create_feature_extractor(model, ["0"], example_inputs=torch.rand(2, 5, 4))
    assert "((2, 5, 3), ((1, 2, 3), (1, 2, 3)))" in show(extractor)
    assert "'0': ((2, 5, 3), ((1, 2, 3), (1, 2, 3)))\n" in repr(extractor)


def test_a_narrow_terminal_hides_nothing():
    lines = [line.split() for line in show(make({"body.0": "a_key_of_some_length"}), 32).splitlines()]
    assert "".join(line[0] for line in lines[4:8] if line).startswith("a_key_of_some_length")


def test_checks_are_counted_and_listed():
    class Sized(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if x.shape[1] > 3 else x - 1

    extractor = fxfeat.create_feature_extractor(Sized(), ["output"], example_inputs=torch.rand(2, 5))
    lines = show(extractor, 200).splitlines()
    assert f"checks: {len(extractor.guards)}" in lines
    shown = lines[lines.index(f"checks: {len(extractor.guards)}") + 2 :]
    assert [f"  {check}" for check in extractor.guards] == shown[: len(extractor.guards)]


class Flat(nn.Module):
    """Takes any batch and any width, and one height alone, which shows in no graph."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = [row * 2 for row in x.unbind(2)]
        y = self.conv(torch.stack(rows, 2))
        return y if y.shape[0] > 0 else -y


def test_sizes_that_stay_free_are_shown():
    extractor = fxfeat.create_feature_extractor(Stacked(), ["body.0"], example_inputs=torch.rand(2, 5, 4))
    assert [str(held) for held in extractor.freedoms] == [
        "x.shape[0] (batch 2) is free",
        "x.shape[1] (length 5) is free",
    ]
    shown = [line.split(maxsplit=3) for line in show(extractor).splitlines()[-2:]]
    assert [line[:3] for line in shown] == [["x", "batch", "2"], ["x", "length", "5"]]
    assert {line[3].strip() for line in shown} == {"any size: found to give the same code"}


def test_sizes_that_are_checked_are_shown():
    extractor = fxfeat.create_feature_extractor(Flat(), ["conv"], example_inputs=torch.rand(2, 3, 6, 7))
    states = {held.axis: held.state for held in extractor.freedoms}
    assert states == {"batch": "free", "height": "checked", "width": "checked"}
    assert "any size that the checks let pass" in show(extractor)
    with pytest.raises(fxfeat.GuardError):
        extractor(torch.rand(2, 3, 8, 7))


class Rectangular(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1, 6 * 7).relu()


def test_sizes_that_are_fixed_are_shown():
    extractor = fxfeat.create_feature_extractor(Rectangular(), ["relu"], example_inputs=torch.rand(2, 3, 6, 7))
    states = {held.axis: held.state for held in extractor.freedoms}
    assert states["batch"] == "free"
    assert states["height"] in ("free", "fixed")


def test_a_mode_that_could_not_be_recorded_does_not_break_repr():
    class EvalOnly(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                raise ValueError("no training")
            return x + 1

    extractor = fxfeat.create_feature_extractor(EvalOnly().eval(), ["output"], example_inputs=torch.rand(2, 5))
    extractor.train()
    assert "no train mode: EvalOnly could not be recorded in train mode" in repr(extractor)
    assert "EvalOnly could not be recorded in train mode" in show(extractor, 300)


@pytest.mark.parametrize("training", [True, False])
def test_title_says_the_mode(training):
    extractor = make(["body"]).train(training)
    console = Console(width=80)
    with console.capture() as captured:
        console.print(render_extractor(extractor))
    assert captured.get().startswith(f"FeatureExtractor of Stacked, {'train' if training else 'eval'} mode\n")
