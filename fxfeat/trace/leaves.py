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
ONLY_TORCH = "only_torch"
"""The key of ``tracer_kwargs`` by which torch's own modules alone are leaves, for code that needs no other package."""
_UNDERSTOOD = ("leaf_modules", "autowrap_functions", "autowrap_modules", "param_shapes_constant", ONLY_TORCH)


@dataclass(frozen=True)
class Leaves:
    """What is called rather than entered.

    ``only_torch`` says that nothing is but modules that a call of their class in ``torch.nn`` makes again.
    """

    modules: tuple[type[nn.Module], ...]
    functions: frozenset[int]
    searched: tuple[types.ModuleType, ...]
    opened: frozenset[str] = frozenset()
    only_torch: bool = False

    def has_module(self, module: nn.Module, path: str) -> bool:
        """Say whether the module at ``path`` is a leaf."""
        entered = any(name == path or name.startswith(f"{path}.") for name in self.opened)
        return not entered and self.is_leaf_kind(module)

    def is_leaf_kind(self, module: nn.Module) -> bool:
        """Say whether a module would be a leaf if no name lay inside it."""
        if isinstance(module, (self.modules, torch.jit.ScriptModule)):
            return True
        if not is_of_torch(module) or isinstance(module, nn.Sequential):
            return False
        return not self.only_torch or _is_as_made(module)


def _is_as_made(module: nn.Module) -> bool:
    """Say whether a module has neither hooks nor parametrizations, which no call of its class gives it."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return getattr(nn, type(module).__name__, None) is type(module) and not any(hooks)


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
        RequestError: for any other key than these and ``only_torch``.

    Source: torchvision's ``create_feature_extractor`` and ``torch.fx.Tracer``.
    """
    given = dict(tracer_kwargs or {})
    unknown = sorted(set(given) - set(_UNDERSTOOD))
    if unknown:
        raise RequestError(
            f"tracer_kwargs has {unknown}, which fxfeat does not know. It knows {', '.join(_UNDERSTOOD[:3])}."
        )
    only_torch = bool(given.get(ONLY_TORCH))
    packages = () if only_torch else (torchvision.ops,)
    searched = (math, *packages, *_einops(), *given.get("autowrap_modules", ()))
    functions = [
        *itertools.chain(*map(_functions_in, searched)),
        *_flex_attention(),
        *given.get("autowrap_functions", ()),
    ]
    modules = (*itertools.chain(*map(_modules_in, packages)), *given.get("leaf_modules", ()))
    return Leaves(modules, frozenset(map(id, functions)), searched, frozenset(opened), only_torch)


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
