"""Hypothesis strategies for a random model, a random request and random inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from tests.random_modules.flow import write_class
from tests.random_modules.writer import BATCH, Program

HEAD = """\
import math

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn


class Box:
    # What modules share besides arguments and results.
    def __init__(self):
        self.flag, self.count, self.kept, self.list = False, 0, None, []


BOX = Box()


def halve(y):
    return y * 0.5


def double_(y):
    y *= 2
    return y


"""


@dataclass(frozen=True)
class Sizes:
    """Batch, height and width of an input."""

    batch: int
    height: int
    width: int


@dataclass(frozen=True)
class Case:
    """One random model, and how it is asked."""

    source: str = field(repr=False)
    channels: int
    inputs: int
    example: Sizes
    others: tuple[Sizes, ...]
    amount: str
    picks: tuple[int, ...]
    mode: str
    flatten: bool
    operations: bool
    grad: bool
    used: bool

    def __repr__(self) -> str:
        names = (
            "channels",
            "inputs",
            "example",
            "others",
            "amount",
            "picks",
            "mode",
            "flatten",
            "operations",
            "grad",
            "used",
        )
        told = "\n".join(f"# {name} = {getattr(self, name)!r}" for name in names)
        return f"\n{told}\n{self.source}"


@st.composite
def cases(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Case:
    """A random case."""
    channels, inputs = draw(st.integers(2, 4)), draw(st.sampled_from((1, 1, 1, 2)))
    example = Sizes(BATCH, draw(st.integers(6, 9)), draw(st.integers(6, 9)))
    program = Program(draw, draw(st.booleans()))
    write_class(program, ((channels, example.height, example.width),) * inputs, 0)
    return Case(
        HEAD + "\n\n".join(program.classes),
        channels,
        inputs,
        example,
        draw(st.tuples(_sizes, _sizes)),
        draw(st.sampled_from(("one", "many", "all"))),
        draw(st.tuples(*[st.integers(0, 999)] * 4)),
        draw(st.sampled_from(("eval", "train", "mixed"))),
        draw(st.sampled_from((False, False, False, True))),
        draw(st.sampled_from((False, False, False, True))),
        program.grad,
        draw(st.booleans()),
    )


_sizes = st.builds(Sizes, st.integers(1, 3), st.integers(5, 16), st.integers(5, 16))
