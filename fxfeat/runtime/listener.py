"""Copy what torch functions return that the own code of a module calls, without changing how torch computes.

A function mode is all that shows each call of a torch function; a dispatch mode shows what those are made of. But some
of torch's modules ask whether one is active, and then leave their fast path, which rounds otherwise. So the mode is
active only in the own code of the module calls that are listened to, and is out of sight while torch asks.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode, _get_current_function_mode

from fxfeat.ir.tap import Tap
from fxfeat.ir.tree import follow, has
from fxfeat.runtime.clone import clone_all
from fxfeat.runtime.module_hooks import REGISTERING
from fxfeat.runtime.tapped_run import TappedRun

FUSED = ("_transformer_encoder_layer_fwd", "_native_multi_head_attention")
"""Functions that do in one kernel what the code of torch's own modules else does step by step."""


@contextmanager
def listening(run: TappedRun, whole: nn.Module, wanted: Mapping[nn.Module, Sequence[Tap]]) -> Iterator[None]:
    """Listen while a module runs.

    Args:
        run: what keeps the values.
        whole: the module; what modules outside it do counts as done by the code that calls them.
        wanted: what to copy of the functions that the own code of each module calls.
    """
    if not wanted:
        yield
        return
    ears = _Ears(run, frozenset(whole.modules()), wanted)
    with REGISTERING:
        before = register_module_forward_pre_hook(ears.enter)
        after = register_module_forward_hook(ears.leave, always_call=True)
    try:
        with _unseen():
            yield
    finally:
        before.remove()
        after.remove()
        ears.stop()


class _Ears:
    """Moves from the code of one module call to that of the next, as the modules call each other."""

    def __init__(
        self, run: TappedRun, modules: frozenset[nn.Module], wanted: Mapping[nn.Module, Sequence[Tap]]
    ) -> None:
        self._run, self._modules, self._wanted = run, modules, wanted
        self._calls: Counter[nn.Module] = Counter()
        self._around: list[tuple[nn.Module, _Listener | None]] = []

    def enter(self, module: nn.Module, args: Any) -> None:
        if module not in self._modules or not self._run.is_ours():
            return
        self._pause()
        number = self._calls[module]
        self._calls[module] += 1
        taps = [tap for tap in self._wanted.get(module, ()) if tap.call == number]
        self._around.append((module, _Listener(self._run, taps) if taps else None))
        self._resume()

    def leave(self, module: nn.Module, args: Any, result: Any) -> None:
        if module not in self._modules or not self._run.is_ours():
            return
        while self._around:
            ended, listener = self._around.pop()
            _stop(listener)
            if ended is module:
                _finish(listener)
                break
        self._resume()

    def stop(self) -> None:
        while self._around:
            _stop(self._around.pop()[1])

    def _pause(self) -> None:
        _stop(self._around[-1][1] if self._around else None)

    def _resume(self) -> None:
        listener = self._around[-1][1] if self._around else None
        if listener is not None and not listener.active:
            listener.active = True
            listener.__enter__()


class _Listener(TorchFunctionMode):
    """Hears the torch functions that the code of one module call calls."""

    def __init__(self, run: TappedRun, taps: Sequence[Tap]) -> None:
        super().__init__()
        self.active = False
        self._run, self._taps = run, taps
        self._heard: Counter[str] = Counter()
        self._fused = False
        self._unsure: dict[Tap, Any] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        number = self._heard[name]
        self._heard[name] += 1
        if name in FUSED:
            self._fused = True
            self._run.fused.append(name)
        result = func(*args, **(kwargs or {}))
        for tap in self._taps if self._run.is_ours() else ():
            if (tap.function, tap.number) == (name, number):
                self._copy(tap, result)
        return result

    def _copy(self, tap: Tap, result: Any) -> None:
        if not self._fused:
            self._run.copy(tap, result)
        elif has(result, tap.steps):
            # A fused kernel does what else is done by calls that would be counted.
            self._unsure[tap] = clone_all(follow(result, tap.steps))

    def finish(self) -> None:
        """Keep what was heard behind a fused kernel, where that did the work of no function of that name."""
        for tap, copied in self._unsure.items():
            if self._heard[tap.function] == tap.total:
                self._run.keep(tap, copied)


def _finish(listener: _Listener | None) -> None:
    if listener is not None:
        listener.finish()


def _stop(listener: _Listener | None) -> None:
    """Leave the mode, but not out of turn, where the model's code has entered one of its own since."""
    if listener is not None and listener.active and _get_current_function_mode() is listener:
        listener.active = False
        listener.__exit__(None, None, None)


# -- out of sight ------------------------------------------------------------------------------------------------------

_patching = threading.Lock()
_patches = 0
_asked: Any = None


@contextmanager
def _unseen() -> Iterator[None]:
    """Let torch's question whether any function mode is active be answered as if no listener were."""
    global _patches, _asked
    with _patching:
        _patches += 1
        if _patches == 1:
            _asked = torch.overrides.has_torch_function
            torch.overrides.has_torch_function = _has_torch_function  # type: ignore[assignment]
    try:
        yield
    finally:
        with _patching:
            _patches -= 1
            if _patches == 0:
                torch.overrides.has_torch_function = _asked


def _has_torch_function(relevant_args: Any) -> Any:
    # The mode on top is that of the thread that asks.
    listener = _get_current_function_mode()
    if not isinstance(listener, _Listener):
        return _asked(relevant_args)
    listener.__exit__(None, None, None)
    try:
        return _asked(relevant_args)
    finally:
        listener.__enter__()
