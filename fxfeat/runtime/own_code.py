"""Hear the torch functions that the own code of single module calls calls, without changing how torch computes.

A function mode is all that shows each call of a torch function; a dispatch mode shows what those are made of. But some
of torch's modules ask whether one is active, and then leave their fast path, which rounds otherwise. So the mode is
active only in the own code of the module calls that are listened to, and is out of sight while torch asks.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode, _get_current_function_mode

from fxfeat.runtime.module_hooks import REGISTERING


class Listener(TorchFunctionMode):
    """Hears the torch functions that the code of one module call calls; ``heard`` counts them by name."""

    def __init__(self) -> None:
        super().__init__()
        self.active = False
        self.heard: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        number = self.heard[name]
        self.heard[name] += 1
        return self.hear(name, number, func(*args, **(kwargs or {})))

    def hear(self, name: str, number: int, result: Any) -> Any:
        """Take what a call of a function gave, and return what the code goes on with."""
        raise NotImplementedError

    def finish(self) -> None:
        """Do what is left to do when the module call has ended."""


ListenerOf = Callable[[nn.Module, int], Listener | None]
"""Says who listens in a module's code, by the number of its call."""


@contextmanager
def listening(
    modules: Container[nn.Module], listener_of: ListenerOf, is_ours: Callable[[], bool] = lambda: True
) -> Iterator[None]:
    """Listen while modules run.

    Args:
        modules: the modules; what others do counts as done by the code that calls them.
        listener_of: says who listens in which call.
        is_ours: says whether a call belongs to the run that is listened to.
    """
    ears = _Ears(modules, listener_of, is_ours)
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

    def __init__(self, modules: Container[nn.Module], listener_of: ListenerOf, is_ours: Callable[[], bool]) -> None:
        self._modules, self._listener_of, self._is_ours = modules, listener_of, is_ours
        self._calls: Counter[nn.Module] = Counter()
        self._around: list[tuple[nn.Module, Listener | None]] = []

    def enter(self, module: nn.Module, args: Any) -> None:
        if module not in self._modules or not self._is_ours():
            return
        _stop(self._around[-1][1] if self._around else None)
        number = self._calls[module]
        self._calls[module] += 1
        self._around.append((module, self._listener_of(module, number)))
        self._resume()

    def leave(self, module: nn.Module, args: Any, result: Any) -> None:
        if module not in self._modules or not self._is_ours():
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

    def _resume(self) -> None:
        listener = self._around[-1][1] if self._around else None
        if listener is not None and not listener.active:
            listener.active = True
            listener.__enter__()


def _finish(listener: Listener | None) -> None:
    if listener is not None:
        listener.finish()


def _stop(listener: Listener | None) -> None:
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
    if not isinstance(listener, Listener):
        return _asked(relevant_args)
    listener.__exit__(None, None, None)
    try:
        return _asked(relevant_args)
    finally:
        listener.__enter__()
