"""One line of a family: a name, how to build the model small, and what to call it with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

Build = Callable[[], nn.Module]
Make = Callable[[], Any]


@dataclass(frozen=True)
class Entry:
    """One model of a zoo."""

    name: str
    build: Build
    inputs: Make

    @property
    def family(self) -> str:
        """The zoo that the model is of: the first part of its name."""
        return self.name.partition(".")[0]

    def __str__(self) -> str:
        return self.name
