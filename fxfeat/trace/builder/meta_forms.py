"""When results on meta tensors follow from the forms of what is given, so that they can be remembered."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import is_inference_mode_enabled
from torch._C._functorch import is_functorch_wrapped_tensor

from fxfeat.trace.builder.trace import Trace

_MOST = 4096

Key = tuple[object, ...]
Value = TypeVar("Value")


def may_remember(trace: Trace) -> bool:
    """Say whether nothing but what is given plays a part: no mode of the model's own, and no data."""
    if trace.fake_tensors.kind != "meta" or is_inference_mode_enabled():
        return False
    return not trace.settings.modes and not torch._C._len_torch_dispatch_stack()


def has_form(tensor: torch.Tensor) -> bool:
    """Say whether shape, dtype and strides tell all of a tensor."""
    if type(tensor) is not torch.Tensor or not tensor.is_meta or tensor.requires_grad:
        return False
    return tensor.layout is torch.strided and not tensor.is_complex() and not is_functorch_wrapped_tensor(tensor)


def keep_result(results: dict[Key, Value], key: Key, value: Value) -> None:
    """Keep a result by its key, and let the oldest go where there are too many."""
    results[key] = value
    if len(results) > _MOST:
        del results[next(iter(results))]
