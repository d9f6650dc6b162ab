"""What a torch function reads of a tensor and writes to it, by its name and schema."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
import torch.nn.functional as F

_STATISTICS = {
    F.batch_norm: ("input", "running_mean", "running_var", "weight", "bias", "training"),
    F.instance_norm: ("input", "running_mean", "running_var", "weight", "bias", "use_input_stats"),
    torch.batch_norm: ("input", "weight", "bias", "running_mean", "running_var", "training"),
    torch.instance_norm: ("input", "weight", "bias", "running_mean", "running_var", "use_input_stats"),
}
"""Arguments of functions that update running statistics, which meta tensors do not show."""


def attribute_of(function: Callable[..., Any]) -> str | None:
    """Return the attribute that a property getter or setter of ``torch.Tensor`` stands for."""
    if getattr(function, "__name__", "") not in ("__get__", "__set__", "__delete__"):
        return None
    owner = getattr(function, "__self__", None)
    return getattr(owner, "__name__", None) or getattr(getattr(owner, "fget", None), "__name__", None)


def keeps_statistics(function: Any) -> bool:
    """Say whether a function normalises by statistics of its input, where it updates those it is given.

    >>> keeps_statistics(F.batch_norm), keeps_statistics(F.layer_norm)
    (True, False)
    """
    return isinstance(function, Hashable) and function in _STATISTICS


def sets_data(function: Any) -> bool:
    """Say whether a function is what runs for ``x.data = y``.

    >>> sets_data(torch.Tensor.data.__set__), sets_data(torch.Tensor.data.__get__)
    (True, False)
    """
    return getattr(function, "__name__", "") == "__set__" and attribute_of(function) == "data"


def written_by(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """List the tensors that a call writes by its schema or its name, where no version counter tells.

    >>> len(written_by(torch._foreach_mul_, ([torch.zeros(1)], 2.0), {}))
    1
    """
    if sets_data(function):
        return [args[0]]
    if getattr(function, "__name__", "").startswith("_foreach") and function.__name__.endswith("_"):
        return list(args[0])
    if keeps_statistics(function):
        given = dict(zip(_STATISTICS[function], args, strict=False)) | kwargs
        updates = given.get("training", given.get("use_input_stats", function is F.instance_norm))
        statistics = (given.get(name) for name in ("running_mean", "running_var"))
        return [tensor for tensor in statistics if isinstance(tensor, torch.Tensor)] if updates else []
    overloads = [function] if isinstance(function, torch._ops.OpOverload) else []
    if isinstance(function, torch._ops.OpOverloadPacket):
        overloads = [getattr(function, name) for name in function.overloads()]
    written: list[torch.Tensor] = []
    for overload in overloads:
        for index, argument in enumerate(overload._schema.arguments):
            value = args[index] if index < len(args) else kwargs.get(argument.name)
            if argument.alias_info and argument.alias_info.is_write and isinstance(value, torch.Tensor):
                written.append(value)
    return written
