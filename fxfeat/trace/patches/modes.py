"""What notices that a model asks for torch's modes and flags, so that the answers are checked."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch

from fxfeat.ir.source_lines import is_torch
from fxfeat.runtime.read_flag import read_flag
from fxfeat.trace.builder.decisions import guard_answer
from fxfeat.trace.builder.gradients import decide_enabled
from fxfeat.trace.builder.trace import Trace
from fxfeat.trace.patches import fast_paths
from fxfeat.trace.patches.replacement import Replacement

_MODES = (
    *("is_grad_enabled", "is_inference_mode_enabled", "is_autocast_enabled", "get_autocast_dtype"),
    *("is_autocast_cache_enabled", "is_anomaly_enabled", "is_deterministic_algorithms_warn_only_enabled"),
    *("get_default_dtype", "are_deterministic_algorithms_enabled", "get_float32_matmul_precision", "get_num_threads"),
)
_KERNELS = ("flash_sdp_enabled", "mem_efficient_sdp_enabled", "math_sdp_enabled", "cudnn_sdp_enabled")
_FUNCTIONS = (
    *((torch, name) for name in _MODES),
    *((torch.backends.cuda, name) for name in _KERNELS),
    (torch.backends.mha, "get_fastpath_enabled"),
)
_Flag: Any = torch.backends.ContextProp
_Products: Any = type(torch.backends.cuda.matmul)


def asking(trace: Trace) -> Iterator[Replacement]:
    """Yield what makes checks of the model's questions about torch's modes and flags."""

    def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any) -> Any:
            if is_torch(_asking_frame()) or not trace.calls.live_here:
                return function(*args)
            if function.__name__ == "is_grad_enabled":
                return decide_enabled(trace)
            return _check(trace, function, args, function(*args))

        return called

    for home, name in _FUNCTIONS:
        yield home, name, guarded(getattr(home, name))
    yield _Flag, "__get__", _reading_flags(trace)
    yield _Products, "__getattr__", _reading_products(trace)


def _asking_frame() -> types.FrameType:
    """Return the frame that asks, behind the patch that answers torch's own modules in another way."""
    frame = sys._getframe(2)
    is_patch = frame.f_globals.get("__name__") == fast_paths.__name__
    return frame.f_back if is_patch and frame.f_back is not None else frame


def _reading_flags(trace: Trace) -> Callable[..., Any]:
    """Return what reads a flag such as ``torch.backends.cudnn.enabled``."""

    def get(flag: Any, owner: Any, kind: Any = None) -> Any:
        answer = flag.getter()
        is_asked = trace.calls.live_here and not is_torch(sys._getframe(1))
        return _check(trace, read_flag, (_name_of(flag, owner),), answer) if is_asked else answer

    return get


def _reading_products(trace: Trace) -> Callable[..., Any]:
    """Return what reads ``torch.backends.cuda.matmul.allow_tf32``."""
    plain = _Products.__getattr__

    def get(products: Any, name: str) -> Any:
        answer = plain(products, name)
        is_asked = name == "allow_tf32" and trace.calls.live_here and not is_torch(sys._getframe(1))
        return _check(trace, read_flag, ("backends.cuda.matmul.allow_tf32",), answer) if is_asked else answer

    return get


def _name_of(flag: Any, owner: Any) -> str:
    name = next(name for kind in type(owner).__mro__ for name, value in vars(kind).items() if value is flag)
    return f"{owner.__name__.removeprefix('torch.')}.{name}"


def _check(trace: Trace, function: Callable[..., Any], args: tuple[Any, ...], answer: Any) -> Any:
    guard_answer(trace, function, args, answer)
    return answer
