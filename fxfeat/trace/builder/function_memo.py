"""Forms of what torch's pure functions return on meta tensors, remembered by the forms of what they are given."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import get_default_dtype, is_grad_enabled

from fxfeat.ir.node_meta import TensorMeta, measure
from fxfeat.ir.tree import leaves_of, tensors
from fxfeat.trace.builder.measure import storage_of
from fxfeat.trace.builder.meta_forms import Key, has_form, keep_result, may_remember
from fxfeat.trace.builder.trace import Trace

_T = torch.Tensor
_PURE = frozenset(
    {
        *(torch.add, torch.sub, torch.mul, torch.div, torch.matmul, torch.bmm, torch.cat, torch.stack, torch.mean),
        *(_T.add, _T.__add__, _T.__radd__, _T.sub, _T.__sub__, _T.__rsub__, _T.mul, _T.__mul__, _T.__rmul__),
        *(_T.div, _T.__truediv__, _T.matmul, _T.__matmul__, _T.mean, _T.sum, _T.softmax, _T.sigmoid, _T.tanh),
        *(_T.relu, _T.pow, _T.__pow__, _T.rsqrt, _T.sqrt, _T.exp, _T.clone, _T.__neg__),
        *(torch.relu, torch.sigmoid, torch.tanh, torch.softmax, torch.sum, torch.rsqrt, torch.pow),
        *(F.linear, F.layer_norm, F.group_norm, F.rms_norm, F.gelu, F.silu, F.relu, F.relu6, F.softmax, F.normalize),
        *(F.hardswish, F.hardsigmoid, F.leaky_relu, F.mish, F.softplus, F.log_softmax, F.embedding),
        *(F.conv1d, F.conv2d, F.conv3d, F.conv_transpose2d, F.scaled_dot_product_attention, F.interpolate),
        *(F.avg_pool2d, F.max_pool2d, F.adaptive_avg_pool2d, F.pad, F.unfold),
    }
)
"""Functions that return one tensor, and do nothing else unless they write to what they are given, or draw."""

_LITERALS = (int, float, bool, str, type(None), torch.dtype, torch.memory_format)
_FORMS: dict[Key, TensorMeta] = {}


def key_of_call(trace: Trace, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Key | None:
    """Return what the form of a result follows from; None where the function has to be run."""
    if function not in _PURE or not may_remember(trace):
        return None
    if not all(type(part) in _LITERALS or has_form(part) for part in leaves_of((args, kwargs))):
        return None
    return (function, _form((args, kwargs)), is_grad_enabled(), get_default_dtype())


def _form(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return measure(value)
    if isinstance(value, (tuple, list)):
        return type(value), *map(_form, value)
    if isinstance(value, dict):
        return tuple((name, _form(part)) for name, part in value.items())
    return type(value), value  # 1 and 1.0 are equal, and give other dtypes


def recall_call(key: Key) -> torch.Tensor | None:
    """Return a new tensor of the form that a call of that key has; None where no such call has run."""
    form = _FORMS.get(key)
    if form is None:
        return None
    return torch.empty_strided(form.shape, form.stride, dtype=form.dtype, device="meta")


def remember_call(trace: Trace, key: Key, given: Any, result: Any) -> None:
    """Keep the form of a result, if it is a new tensor and the call did nothing else."""
    draws = trace.memory.draws
    if type(result) is not torch.Tensor or draws.seen or draws.tells or result._version:
        return
    if storage_of(result) in {storage_of(tensor) for _, tensor in tensors(given)}:
        return
    keep_result(_FORMS, key, measure(result))
