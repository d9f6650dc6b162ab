"""Which modules and functions are called whole while recording: the same as in torchvision's extractor."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import nn

from fxfeat.errors import RequestError

FLEX_ATTENTION = "torch.nn.attention.flex_attention"
_UNDERSTOOD = ("leaf_modules", "autowrap_functions", "autowrap_modules", "param_shapes_constant")


@dataclass(frozen=True)
class Leaves:
    """What is called rather than entered."""

    modules: tuple[type[nn.Module], ...]
    functions: frozenset[int]
    searched: tuple[types.ModuleType, ...]
    opened: frozenset[str] = frozenset()

    def has_module(self, module: nn.Module, path: str) -> bool:
        """Say whether the module at ``path`` is a leaf."""
        entered = any(name == path or name.startswith(f"{path}.") for name in self.opened)
        return not entered and self.is_leaf_kind(module)

    def is_leaf_kind(self, module: nn.Module) -> bool:
        """Say whether a module would be a leaf if no name lay inside it."""
        if isinstance(module, (self.modules, torch.jit.ScriptModule)):
            return True
        return is_of_torch(module) and not isinstance(module, nn.Sequential)


def is_of_torch(module: nn.Module) -> bool:
    """Say whether a module's class is torch's own.

    >>> is_of_torch(nn.Linear(1, 1)), is_of_torch(type("Own", (nn.Linear,), {"__module__": "mine"})(1, 1))
    (True, False)
    """
    return type(module).__module__.startswith(("torch.nn", "torch.ao.nn"))


def choose_leaves(tracer_kwargs: dict[str, Any] | None, opened: Iterable[str] = ()) -> Leaves:
    """Read torchvision's ``tracer_kwargs``, which is not modified.

    Args:
        tracer_kwargs: ``leaf_modules``, ``autowrap_functions`` and ``autowrap_modules`` are understood.
        opened: paths of leaves to enter after all.

    Raises:
        RequestError: for any other key.

    Source: torchvision's ``create_feature_extractor`` and ``torch.fx.Tracer``.
    """
    given = dict(tracer_kwargs or {})
    unknown = sorted(set(given) - set(_UNDERSTOOD))
    if unknown:
        raise RequestError(
            f"tracer_kwargs has {unknown}, which fxfeat does not know. It knows {', '.join(_UNDERSTOOD[:3])}."
        )
    searched = (math, torchvision.ops, *_einops(), *given.get("autowrap_modules", ()))
    functions = [
        *itertools.chain(*map(_functions_in, searched)),
        *_flex_attention(),
        *given.get("autowrap_functions", ()),
    ]
    modules = (*_modules_in(torchvision.ops), *given.get("leaf_modules", ()))
    return Leaves(modules, frozenset(map(id, functions)), searched, frozenset(opened))


def _einops() -> tuple[types.ModuleType, ...]:
    """Einops keeps what it worked out for a shape in caches that would outlive the recording."""
    return (sys.modules["einops"],) if "einops" in sys.modules else ()


def _flex_attention() -> tuple[Callable[..., Any], ...]:
    """It traces the functions that it is given in a way of its own."""
    module = sys.modules.get(FLEX_ATTENTION)
    return () if module is None else (module.flex_attention,)


@functools.cache
def _functions_in(module: types.ModuleType) -> tuple[Callable[..., Any], ...]:
    public = [value for name, value in vars(module).items() if not name.startswith("_")]
    return tuple(value for value in public if callable(value) and not inspect.isclass(value))


@functools.cache
def _modules_in(module: types.ModuleType) -> tuple[type[nn.Module], ...]:
    return tuple(value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, nn.Module))
