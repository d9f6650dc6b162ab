"""Notice what operators do that no tensor shows: draw, write to tensors of inference mode, tell Python of values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import is_inference_mode_enabled
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode

from fxfeat.ir.node_meta import Storage
from fxfeat.trace.builder.measure import storage_of

_TELLING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class Draws(TorchDispatchMode):
    """Notice draws, writes and what values tell; operators themselves say so, but for those that run other code."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.seen = self.tells = self.sizes = False
        self.written: set[Storage] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, HigherOrderOperator):
            return func(*args, **(kwargs or {}))
        self.seen = self.seen or torch.Tag.nondeterministic_seeded in func.tags
        self.tells = self.tells or not _TELLING.isdisjoint(func.tags)
        self.sizes = self.sizes or torch.Tag.dynamic_output_shape in func.tags
        if is_inference_mode_enabled():
            self.written |= {storage_of(tensor) for tensor in _written_by(func, args, kwargs or {})}
        return func(*args, **(kwargs or {}))


def _written_by(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[torch.Tensor]:
    for index, argument in enumerate(func._schema.arguments):
        value = args[index] if index < len(args) else kwargs.get(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write:
            written = value if isinstance(value, list) else [value]
            yield from (tensor for tensor in written if tensor is not None)
