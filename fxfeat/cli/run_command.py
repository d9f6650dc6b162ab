"""Run a command and print what it hands back."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator

import torch
from rich.console import Console

from fxfeat.cli.check_extractor import check_extractor
from fxfeat.cli.make_inputs import make_inputs
from fxfeat.cli.models import load_model
from fxfeat.cli.show_code import show_code
from fxfeat.cli.show_nodes import show_nodes
from fxfeat.cli.show_pyramid import show_pyramid
from fxfeat.cli.usage import Outcome

_COMMANDS: dict[str, Callable[..., Outcome]] = {
    "nodes": show_nodes,
    "code": show_code,
    "verify": check_extractor,
    "pyramid": show_pyramid,
}
_SEED = 0
_UNLIMITED = 10_000


def run_command(options: argparse.Namespace) -> int:
    """Run the command that was asked for and print what it hands back; return the exit code."""
    # Asked before stdout is led elsewhere, which rich would follow.
    console = Console(file=sys.stdout)
    width = console.width if console.is_terminal else None
    with _quiet(options.debug):
        outcome = _obey(options, width)
    _write(console, outcome)
    return outcome.code


def _obey(options: argparse.Namespace, width: int | None) -> Outcome:
    torch.manual_seed(_SEED)
    model = load_model(options.model, options.arg)
    inputs = make_inputs(model, options.input_shape)
    return _COMMANDS[options.command](model, inputs, options, width)


@contextlib.contextmanager
def _quiet(debug: bool) -> Iterator[None]:
    """Keep what models and libraries print off stdout, and their warnings and logs off the terminal."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        if not debug:
            warnings.simplefilter("ignore")
            logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


def _write(console: Console, outcome: Outcome) -> None:
    text = outcome.body if isinstance(outcome.body, str) else _render(console, outcome)
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.rstrip("\n").encode(encoding, "replace").decode(encoding), flush=True)
    except BrokenPipeError:
        # The reader has seen enough. Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _render(console: Console, outcome: Outcome) -> str:
    if not console.is_terminal:
        unlimited = console.options.update(width=_UNLIMITED)
        console.width = max(console.width, console.measure(outcome.body, options=unlimited).maximum)
    with console.capture() as captured:
        console.print(outcome.body, crop=False)
    return captured.get()
