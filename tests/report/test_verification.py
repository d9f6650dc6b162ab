"""How a verification prints."""

from __future__ import annotations

import torch
from rich.console import Console

from fxfeat.eager.verify import Verification, VerifiedRow
from fxfeat.report.verification_table import render_verification

EQUAL = VerifiedRow("low", "layer1", (2, 3), torch.float32, True, 0.0)
DIFFERENT = VerifiedRow("all", "output", ((2,), (3,)), None, False, None, "shapes differ from the model's")


def show(*rows: VerifiedRow) -> list[str]:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(render_verification(Verification(rows)))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_equal():
    head, _, row, verdict = show(EQUAL)
    assert head == "key   name     shape    dtype     equal   max |diff|"
    assert row == "low   layer1   (2, 3)   float32   yes     0"
    assert verdict == "equal bit for bit: 1 of 1"


def test_different():
    head, _, _, row, verdict = show(EQUAL, DIFFERENT)
    assert head.endswith("max |diff|   note")
    assert row == "all   output   ((2,), (3,))   -         no      -            shapes differ from the model's"
    assert verdict == "NOT equal: 1 of 2"
