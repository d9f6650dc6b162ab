"""Settings of the whole process that change what torch computes, which a model's code may set while it runs."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils import _device

from fxfeat.ir.node_meta import Context
from fxfeat.isolation.patching import patch

Switches = tuple[Any, ...]

_ATTENTION: tuple[tuple[SDPBackend, Callable[[], bool]], ...] = (
    (SDPBackend.FLASH_ATTENTION, torch.backends.cuda.flash_sdp_enabled),
    (SDPBackend.EFFICIENT_ATTENTION, torch.backends.cuda.mem_efficient_sdp_enabled),
    (SDPBackend.CUDNN_ATTENTION, torch.backends.cuda.cudnn_sdp_enabled),
    (SDPBackend.MATH, torch.backends.cuda.math_sdp_enabled),
)
_PRECISIONS = (("generic", "all"), *((home, kind) for home in ("cuda", "mkldnn") for kind in ("matmul", "conv", "rnn")))


@dataclass(frozen=True)
class _Precisions:
    """What was set in the older way, and in the newer one, after which the older getter raises.

    Where nothing was set, torch computes as if all of float32 had been asked for: no change of what it does.
    """

    older: str | None
    meant: tuple[str, ...]
    newer: tuple[str, ...] = field(compare=False)


def _read_precisions() -> _Precisions:
    try:
        older = torch._C._get_float32_matmul_precision()
    except RuntimeError:
        older = None
    return _mean(older, tuple([torch._C._get_fp32_precision_getter(*pair) for pair in _PRECISIONS]))


@functools.lru_cache
def _mean(older: str | None, newer: tuple[str, ...]) -> _Precisions:
    whole = newer[0].replace("none", "ieee")
    return _Precisions(older, tuple(whole if value == "none" else value for value in newer), newer)


def _write_precisions(values: _Precisions) -> None:
    if values.older is not None:
        torch._C._set_float32_matmul_precision(values.older)
    for pair, value in zip(_PRECISIONS, values.newer, strict=True):
        torch._C._set_fp32_precision_setter(*pair, value)


_READERS: dict[str, Callable[[], Any]] = {
    "torch's default dtype": torch.get_default_dtype,
    "torch's default device": lambda: _device.CURRENT_DEVICE,
    "the number of torch's threads": torch.get_num_threads,
    "torch's choice of deterministic algorithms": torch.are_deterministic_algorithms_enabled,
    "torch's precision of float32": _read_precisions,
    "torch's use of cuDNN": torch._C._get_cudnn_enabled,
    "cuDNN's choice of deterministic algorithms": torch._C._get_cudnn_deterministic,
    "cuDNN's search for algorithms": torch._C._get_cudnn_benchmark,
    "torch's use of oneDNN": torch._C._get_mkldnn_enabled,
    "torch's engine of quantized layers": torch._C._get_qengine,
    "torch's fast path of attention": torch.backends.mha.get_fastpath_enabled,
    "torch's kernels of attention": lambda: any(is_on() for _, is_on in _ATTENTION),
    "the priority of torch's kernels of attention": lambda: tuple(torch._C._get_sdp_priority_order()),
    "the dispatch modes that are on": torch._C._len_torch_dispatch_stack,
    "the caching of parametrizations": lambda: parametrize._cache_enabled > 0,
}
_WRITERS: dict[str, Callable[[Any], Any]] = {
    "torch's default dtype": torch.set_default_dtype,
    "torch's default device": torch.set_default_device,
    "the number of torch's threads": torch.set_num_threads,
    "torch's choice of deterministic algorithms": torch.use_deterministic_algorithms,
    "torch's precision of float32": _write_precisions,
    "torch's use of cuDNN": torch._C._set_cudnn_enabled,
    "cuDNN's choice of deterministic algorithms": torch._C._set_cudnn_deterministic,
    "cuDNN's search for algorithms": torch._C._set_cudnn_benchmark,
    "torch's use of oneDNN": torch._C._set_mkldnn_enabled,
    "torch's engine of quantized layers": lambda engine: setattr(torch.backends.quantized, "engine", engine),
    "torch's fast path of attention": torch.backends.mha.set_fastpath_enabled,
}


@contextlib.contextmanager
def same_switches() -> Iterator[None]:
    """Put settings back on the way out; code that failed has left them as it had set them, but for ``with`` blocks."""
    before = read_switches()
    try:
        yield
    finally:
        for name, old, new in zip(_READERS, before, read_switches(), strict=True):
            if old != new and name in _WRITERS:
                _WRITERS[name](old)


@contextlib.contextmanager
def same_tiny_numbers() -> Iterator[None]:
    """Put back whether tiny numbers are taken for 0, which torch sets and does not tell."""
    tiny = torch.tensor(1e-310, dtype=torch.float64)
    flushes = bool(tiny * 1 == 0)
    try:
        yield
    finally:
        if bool(tiny * 1 == 0) != flushes:
            torch.set_flush_denormal(flushes)


def read_switches() -> Switches:
    """Read every setting, in the order of their names."""
    return tuple([read() for read in _READERS.values()])


def name_changes(before: Switches, now: Switches) -> str:
    """Name what differs between two readings."""
    pairs = zip(_READERS, before, now, strict=False)
    return " and ".join(name for name, old, new in pairs if old != new) or "the function modes that are on"


def devices_entered() -> list[torch.device]:
    """List the devices that ``with torch.device(...)`` has made the default, which calls show only if they use it."""
    return [mode.device for mode in _get_current_function_mode_stack() if isinstance(mode, _device.DeviceContext)]


def kernels_of_attention() -> list[SDPBackend]:
    """List the kernels that attention may use."""
    return list(_name_kernels(*[is_on() for _, is_on in _ATTENTION]))


@functools.lru_cache
def _name_kernels(*are_on: bool) -> tuple[SDPBackend, ...]:
    return tuple(kernel for (kernel, _), is_on in zip(_ATTENTION, are_on, strict=True) if is_on)


def attention_context(kernels: list[SDPBackend]) -> Context:
    """Describe a region of code in which attention may use some kernels only."""
    return Context(sdpa_kernel, (("backends", kernels),))


def count_modes(undo: contextlib.ExitStack, own: TorchFunctionMode, mine: Callable[[], bool], modes: list[str]) -> None:
    """Note in ``modes`` which function modes of its own a model's code has entered, but none of torch's.

    A mode is not on the stack while it handles a call, so the stack does not tell.
    """
    enter, leave = TorchFunctionMode.__enter__, TorchFunctionMode.__exit__

    def is_noted(mode: TorchFunctionMode) -> bool:
        return mode is not own and not type(mode).__module__.startswith("torch.") and mine()

    def noting_enter(mode: TorchFunctionMode) -> Any:
        if is_noted(mode):
            modes.append(type(mode).__name__)
        return enter(mode)

    def noting_leave(mode: TorchFunctionMode, *details: Any) -> Any:
        if modes and is_noted(mode):
            modes.pop()
        return leave(mode, *details)

    patch(undo, ((TorchFunctionMode, "__enter__", noting_enter), (TorchFunctionMode, "__exit__", noting_leave)))
