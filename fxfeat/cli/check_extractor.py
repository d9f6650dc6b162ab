"""``fxfeat verify``: compare an extractor with forward hooks."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Group
from rich.text import Text
from torch import nn

from fxfeat.cli.make_inputs import as_inputs, draw_again
from fxfeat.cli.show_code import make_extractor
from fxfeat.cli.usage import FAILED, GOOD, Outcome
from fxfeat.eager.verify import verify
from fxfeat.report.verification_table import render_verification
from fxfeat.trace.setup import read_setup, record_mode


def check_extractor(model: nn.Module, inputs: Any, options: argparse.Namespace, width: int | None = None) -> Outcome:
    """Run the model with hooks and the extractor on random inputs, and compare bit for bit."""
    setup = read_setup(model, None, None, inputs)
    record_mode(setup, options.mode == "train")
    example = setup.examples[0]
    extractor = make_extractor(model, as_inputs(example), options)
    drawn = draw_again(example)
    verification = verify(model, extractor, *drawn.args, **drawn.kwargs)
    code = GOOD if verification.ok else FAILED
    whole = [Text(f"runs whole: {path or 'the model'} ({reason})") for path, reason in extractor.tapped]
    return Outcome(Group(render_verification(verification), *whole), code)
