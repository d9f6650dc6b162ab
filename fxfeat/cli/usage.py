"""What a command hands back: something to print and an exit code, or a wrong usage."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fxfeat.errors import FxfeatError

if TYPE_CHECKING:
    from rich.console import RenderableType

MODEL_FORMS = "torchvision:NAME, timm:NAME, package.module:CALLABLE or path/to/file.py:CALLABLE"
GOOD, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130


class UsageError(FxfeatError):
    """A command line that asks for something that is not there or cannot be read."""


@dataclass(frozen=True)
class Outcome:
    """What to print, and the exit code."""

    body: RenderableType
    code: int = GOOD


def suggest(asked: str, choices: Iterable[str]) -> str:
    """Name what comes nearest, or nothing.

    >>> suggest("resnet81", ["resnet18", "vgg11"])
    " Did you mean 'resnet18'?"
    """
    near = difflib.get_close_matches(asked, list(choices), 3, 0.6)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
