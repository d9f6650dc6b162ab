"""Inputs as data: each function returns one that makes the input, the same at every call."""

from __future__ import annotations

from typing import Any

import torch

from tests.zoo.entry import Make


def floats(*shape: int) -> Make:
    return lambda: torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def image(side: int = 64, channels: int = 3, rows: int = 2) -> Make:
    return floats(rows, channels, side, side)


def ids(length: int = 12, rows: int = 2, first: int = 1) -> Make:
    return lambda: torch.arange(first, first + rows * length).reshape(rows, length)


def boxes(length: int = 12, rows: int = 2) -> Make:
    return lambda: torch.tensor([1, 2, 3, 4]).repeat(rows, length, 1)


def whole(*shape: int) -> Make:
    return lambda: torch.zeros(shape, dtype=torch.long)


def ones(*shape: int) -> Make:
    return lambda: torch.ones(shape, dtype=torch.long)


def named(**parts: Any) -> Make:
    """Make keyword arguments; what is no function is passed as it is."""
    return lambda: {name: part() if callable(part) else part for name, part in parts.items()}


def positional(*parts: Make) -> Make:
    return lambda: tuple(part() for part in parts)
