"""The example's inputs at other sizes: one row, three rows, larger images, longer sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def resize(inputs: Any) -> dict[str, Any]:
    sizes = {
        "1 row": change(inputs, lambda held: _rows(held, 1)),
        "3 rows": change(inputs, lambda held: _rows(held, 3)),
        "larger image": change(inputs, _larger),
        "longer sequence": change(inputs, _longer),
    }
    shape = shapes(inputs)
    return {name: other for name, other in sizes.items() if shapes(other) != shape}


def change(inputs: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(inputs, torch.Tensor):
        return function(inputs)
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(change(held, function) for held in inputs)
    if isinstance(inputs, dict):
        return {key: change(held, function) for key, held in inputs.items()}
    return inputs


def shapes(inputs: Any) -> list[torch.Size]:
    found: list[torch.Size] = []
    change(inputs, lambda held: found.append(held.shape) or held)  # type: ignore[func-returns-value]
    return found


def _rows(held: torch.Tensor, count: int) -> torch.Tensor:
    return held[[i % len(held) for i in range(count)]] if held.dim() > 1 else held


def _larger(held: torch.Tensor) -> torch.Tensor:
    if held.dim() < 4:
        return held
    return torch.rand(*held.shape[:-2], held.shape[-2] + 32, held.shape[-1] + 64)


def _longer(held: torch.Tensor) -> torch.Tensor:
    if held.dim() not in (2, 3):
        return held
    return torch.cat([held, held[:, : max(1, held.shape[1] // 2)]], dim=1)
