"""Let a model run another of its methods than ``forward`` for a while."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from fxfeat.errors import RequestError
from fxfeat.isolation.patching import MISSING, put_items

FORWARD = "forward"
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks", "_backward_pre_hooks")


@contextmanager
def entered_by(model: nn.Module, method: str) -> Iterator[None]:
    """Call a method where the model is called, without the model's hooks, which no other method than ``forward`` runs.

    While the method runs, the model is as it was: it may call itself.

    Raises:
        RequestError: where the model has no such method.

    Example:
        >>> class Encoder(nn.Module):
        ...     def encode(self, x):
        ...         return x + 1
        >>> encoder = Encoder()
        >>> with entered_by(encoder, "encode"):
        ...     encoder(1)
        2
    """
    if method == FORWARD:
        yield
        return
    function = getattr(model, method, None) if isinstance(method, str) else None
    if not callable(function) or isinstance(function, nn.Module) or method.startswith("__"):
        raise RequestError(_explain(model, method))
    attributes = model.__dict__
    mine: dict[str, Any] = {name: OrderedDict() for name in _HOOKS}
    before: dict[str, Any] = {name: attributes.get(name, MISSING) for name in (FORWARD, *_HOOKS)}

    def run(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as around:
            around.callback(put_items, attributes, mine)
            put_items(attributes, before)
            return function(*args, **kwargs)

    run.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    mine[FORWARD] = run
    put_items(attributes, mine)
    try:
        yield
    finally:
        put_items(attributes, before)


def _explain(model: nn.Module, method: Any) -> str:
    kind = type(model)
    own = [
        name
        for base in kind.__mro__
        if base not in nn.Module.__mro__
        for name, value in vars(base).items()
        if inspect.isfunction(value) and not name.startswith("_")
    ]
    shown = ", ".join(sorted(set(own))[:12])
    return f"{kind.__name__} has no method {method!r} that could be run. It has {shown}."
