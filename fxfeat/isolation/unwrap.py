"""Run what a data-parallel wrapper holds without the wrapper's scattering and gradient buckets."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

_WRAPPERS = (nn.DataParallel, DistributedDataParallel)


class Alone(nn.Module):
    """A wrapped module under the wrapper's own paths (``module.layer1``) and hooks, run in this process alone."""

    def __init__(self, wrapper: nn.Module, inner: nn.Module) -> None:
        super().__init__()
        self.module = inner
        self.training = wrapper.training
        for name in ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks", "_backward_pre_hooks"):
            self.__dict__[name] = wrapper.__dict__[name]
        for name in ("_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs"):
            self.__dict__[name] = wrapper.__dict__[name]

        def forward(*args: Any, **kwargs: Any) -> Any:
            return inner(*args, **kwargs)

        forward.__signature__ = inspect.signature(inner.forward)  # type: ignore[attr-defined]
        self.forward = forward


def unwrap(model: nn.Module) -> nn.Module:
    """Replace a ``DataParallel`` or ``DistributedDataParallel`` by an ``Alone``; return any other model as it is.

    >>> isinstance(unwrap(nn.DataParallel(nn.ReLU())), Alone)
    True
    """
    if not isinstance(model, _WRAPPERS):
        return model
    cls = type(type(model).__name__, (Alone,), {})
    return cls(model, model.module)
