"""Guessed example inputs, each drawn when it is asked for: the first nearly always suits, and an image takes time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import nn

from fxfeat.inputs.examples import guess_examples
from fxfeat.ir.example import Example


class Guesses(Sequence[Example]):
    """The examples that may suit a model, likeliest first; torch's random state stays as it was."""

    def __init__(self, model: nn.Module, concrete_args: dict[str, Any] | None) -> None:
        self._undrawn = guess_examples(model, concrete_args)
        self._drawn: list[Example] = []

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        last = index if isinstance(index, int) else index.stop
        while last is None or last < 0 or len(self._drawn) <= last:
            if not self._draw():
                break
        return self._drawn[index]

    def __len__(self) -> int:
        while self._draw():
            pass
        return len(self._drawn)

    def _draw(self) -> bool:
        with torch.random.fork_rng(devices=[]):
            example = next(self._undrawn, None)
        if example is not None:
            self._drawn.append(example)
        return example is not None
