"""The arguments that a model is run with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

Sizes = tuple[tuple[tuple[int, ...], torch.dtype], ...]
"""Shape and dtype of each tensor in some inputs."""


@dataclass(frozen=True)
class Example:
    """One set of arguments for a model's ``forward``.

    ``fill`` makes the same with values, where the tensors have room for them but none yet: most runs look at none.
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    fill: Callable[[], Example] | None = None
