"""Eager runs with cloning hooks, and which of a module's values its name may mean."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import nn

from fxfeat.trace.leaves import choose_leaves
from tests.oracle import call, hooked, kept_buffers, same

Calls = dict[str, list[torch.Tensor]]


def seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def run_hooked(model: nn.Module, inputs: Any) -> Calls:
    """Collect the tensors that each module returned."""
    seed()
    with torch.no_grad():
        return hooked(model, inputs)


def run_extractor(model: nn.Module, extractor: nn.Module, inputs: Any) -> dict[str, Any]:
    seed()
    with torch.no_grad(), kept_buffers(model):
        return call(extractor, inputs)


def differing(model: nn.Module, actual: dict[str, Any], expected: Calls, names: list[str]) -> list[str]:
    """List the names whose value is none of those that the name may mean."""
    several = _shared(model)
    return [name for name in names if not _is_right(model, several, name, actual, expected)]


def unrepeatable(model: nn.Module, inputs: Any, expected: Calls, names: list[str]) -> set[str]:
    """List the names whose value eager mode does not give again under the same random state."""
    if not names:
        return set()
    again = run_hooked(model, inputs)
    return {name for name in names if not _same_calls(expected[name], again.get(name, []))}


def _is_right(model: nn.Module, several: set[str], name: str, actual: dict[str, Any], expected: Calls) -> bool:
    value, calls = actual.get(name), expected[name]
    legal = calls if name in several else calls[:1] if _is_leaf(model, name) else calls[-1:]
    return isinstance(value, torch.Tensor) and any(same(value, held) for held in legal)


def _same_calls(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return len(left) == len(right) and all(map(same, left, right))


def _shared(model: nn.Module) -> set[str]:
    """List modules that several paths lead to, where a path means the calls made through it."""
    counts = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    return {path for path, module in model.named_modules() if counts[id(module)] > 1}


def _is_leaf(model: nn.Module, name: str) -> bool:
    return choose_leaves(None).has_module(model.get_submodule(name), name)
