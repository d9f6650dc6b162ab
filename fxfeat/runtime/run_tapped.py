"""Run a module whole, and copy values out of it at the moment they are produced: what emitted code calls."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import nn

from fxfeat.errors import GuardError
from fxfeat.ir.tap import Tap, TappedCall
from fxfeat.runtime.copy_heard import copying
from fxfeat.runtime.module_hooks import copying_results
from fxfeat.runtime.tapped_run import TRIAL, LastValueSeen, TappedRun

_FUSING = (nn.TransformerEncoderLayer, nn.TransformerEncoder, nn.MultiheadAttention)


class HoldsTapped(Protocol):
    """An extractor, of which emitted code asks for the modules that it runs whole."""

    find_tapped: Callable[[str], tuple[nn.Module, TappedCall]]


class _RunsOfThread(threading.local):
    def __init__(self) -> None:
        self.under_way: list[TappedRun] = []


_runs = _RunsOfThread()


@torch.compiler.disable
def run_tapped(extractor: HoldsTapped, key: str, /, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """Run a module of a model as it is, with its own Python, and copy values out of it.

    Forward hooks stand on the modules that return the values, for as long as this runs and in this thread alone. Where
    nothing behind the last value is needed, the run stops there, unless a ``try`` or ``with`` of the model's own would
    notice.

    Args:
        extractor: what holds the module.
        key: the module's path, with ``@k`` for its call k.
        *args: what the module is called with.
        **kwargs: the same.

    Returns:
        What the module returned, None if it was stopped, and the values by name.

    Raises:
        GuardError: where a value was not produced.
    """
    module, call = extractor.find_tapped(key)
    run, modes = TappedRun(call, sys._getframe()), _Modes()
    around = [(outer, len(outer.calls.under_way)) for outer in _runs.under_way]
    _runs.under_way.append(run)
    try:
        result = _run(module, run, args, kwargs)
    except LastValueSeen as stop:
        if stop.run is not run:
            raise
        _clear_frames(stop.__traceback__)
        modes.restore()
        result = None
        for outer, depth in around:
            del outer.calls.under_way[depth:]
    except Exception:
        # Behind the last value, parts of the model may be elsewhere: they are not the extractor's.
        if not (call.stops and run.is_complete()):
            raise
        result = None
    finally:
        _runs.under_way.pop()
        run.end()
    for tap in call.taps:
        if tap.name not in run.values:
            raise GuardError(explain_missing(module, run, tap))
    return result, run.values


class _Modes:
    """The modes of the thread, which code may set without a ``with`` and put back behind the last value."""

    def __init__(self) -> None:
        self.gradients = torch.is_grad_enabled()
        self.autocast = {device: torch.is_autocast_enabled(device) for device in ("cpu", "cuda")}

    def restore(self) -> None:
        if torch.is_grad_enabled() != self.gradients:
            torch.set_grad_enabled(self.gradients)
        for device, enabled in self.autocast.items():
            if torch.is_autocast_enabled(device) != enabled:
                torch.set_autocast_enabled(device, enabled)


def _run(module: nn.Module, run: TappedRun, args: Any, kwargs: Any) -> Any:
    own = [tap for tap in run.call.taps if _is_own_result(tap)]
    inner = [tap for tap in run.call.taps if tap not in own]
    with ExitStack() as undo:
        undo.enter_context(copying(run, module, _by_module(module, [tap for tap in inner if tap.function])))
        undo.enter_context(copying_results(run, _by_module(module, [tap for tap in inner if not tap.function])))
        trial = TRIAL.get()
        if trial is not None and run.call.stops:
            trial.begin()
        result = module(*args, **kwargs)
    for tap in own:
        # A hook does not see what a class adds in a __call__ of its own.
        run.copy(tap, result)
    return result


def _is_own_result(tap: Tap) -> bool:
    return not tap.path and not tap.function and tap.call in (0, None) and not tap.is_input and not tap.every


def _by_module(module: nn.Module, taps: list[Tap]) -> dict[nn.Module, list[Tap]]:
    wanted: dict[nn.Module, list[Tap]] = {}
    for tap in taps:
        wanted.setdefault(module.get_submodule(tap.path), []).append(tap)
    return wanted


def _clear_frames(trace: TracebackType | None) -> None:
    """Let go of what stopped frames hold, innermost first.

    A stopped ``torch.utils.checkpoint`` is left in the middle of a generator, which undoes what it did to autograd only
    when it is let go.
    """
    frames = []
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    for frame in reversed(frames[1:]):
        with suppress(RuntimeError):  # a generator that runs on
            frame.clear()


def explain_missing(module: nn.Module, run: TappedRun, tap: Tap) -> str:
    """Say why a value was not produced, and what to type."""
    path = ".".join(filter(None, (run.call.path, tap.path)))
    where = repr(path) if path else type(module).__name__
    again = "Create the extractor again with example_inputs= like this input"
    if tap.function and (run.fused or _is_fusing(module, tap)):
        return (
            f"{tap.name!r} is inside a fused kernel when {where} runs on torch's fast path, as in eval mode without "
            "gradients: it was not computed. Ask for what the module around it returns, or call "
            "torch.backends.mha.set_fastpath_enabled(False)."
        )
    owner = module.get_submodule(tap.path)
    count = run.calls.counts[owner]
    if tap.function:
        return f"{tap.name!r} was not computed: the code of {where} went another way with this input. {again}."
    times = "did not run" if not count else "ran once" if count == 1 else f"ran {count} times"
    if count and (tap.call is None or count > tap.call):
        did = "was called with" if tap.is_input else "returned"
        return f"{tap.name!r} was not computed: {where} {did} something of another structure. {again}."
    near = f", or ask for '{path}@{count - 1}'" if count else ""
    return f"{tap.name!r} was not computed: {where} {times} with this input. {again}{near}."


def _is_fusing(module: nn.Module, tap: Tap) -> bool:
    parts = tap.path.split(".") if tap.path else []
    around = [module.get_submodule(".".join(parts[:count])) for count in range(len(parts) + 1)]
    return bool(tap.function) and any(isinstance(module, _FUSING) for module in around)
