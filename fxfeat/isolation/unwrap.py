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

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self).__name__, self.module), self.__dict__


def _make_class(name: str, inner: nn.Module) -> type[Alone]:
    """Make a class of a wrapper's name, whose ``forward`` has the signature of what it holds."""

    def forward(self: Alone, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    taken = inspect.signature(inner.forward)
    forward.__signature__ = taken.replace(parameters=[own, *taken.parameters.values()])  # type: ignore[attr-defined]
    return type(name, (Alone,), {"forward": forward})


def _restore(name: str, inner: nn.Module) -> Alone:
    cls = _make_class(name, inner)
    return cls.__new__(cls)


def unwrap(model: nn.Module) -> nn.Module:
    """Replace a ``DataParallel`` or ``DistributedDataParallel`` by an ``Alone``; return any other model as it is.

    >>> isinstance(unwrap(nn.DataParallel(nn.ReLU())), Alone)
    True
    """
    if not isinstance(model, _WRAPPERS):
        return model
    return _make_class(type(model).__name__, model.module)(model, model.module)
