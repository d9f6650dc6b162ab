"""The modes that a model's own ``train`` and ``eval`` set, which classes override to keep parts frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

from torch import nn

from fxfeat.isolation.preserved import preserved, sets_modes

Setting = Literal["train()", "eval()", "train(False)"]
_SETTINGS: Mapping[Setting, Callable[[nn.Module], Any]] = MappingProxyType(
    {
        "train()": lambda model: model.train(True),
        "eval()": lambda model: model.eval(),
        "train(False)": lambda model: model.train(False),
    }
)


def set_mode(model: nn.Module, training: bool) -> None:
    """Put a model into a mode by its own ``train`` or ``eval``, which need not be the same as ``train(False)``."""
    _SETTINGS["train()" if training else "eval()"](model)


def find_unlike(model: nn.Module) -> dict[Setting, frozenset[str]]:
    """List the modules that each way of setting the mode leaves in the other mode, by path; the model comes back.

    >>> class Frozen(nn.Sequential):
    ...     def train(self, mode=True):
    ...         return super().train(False)
    >>> find_unlike(nn.Sequential(nn.Linear(2, 2), Frozen(nn.ReLU())))["train()"] == {"1", "1.0"}
    True
    """
    if not any(map(sets_modes, model.modules())):
        return {}
    return {setting: _unlike_after(model, setting) for setting in _SETTINGS}


def _unlike_after(model: nn.Module, setting: Setting) -> frozenset[str]:
    training = setting == "train()"
    with preserved(model):
        try:
            _SETTINGS[setting](model)
        except Exception:
            return frozenset()  # it cannot be recorded in this mode either
        return frozenset(
            path for path, module in model.named_modules(remove_duplicate=False) if module.training != training
        )
