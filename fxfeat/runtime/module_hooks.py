"""Copy what modules return, or are called with, by hooks that stand only while a tapped run is under way."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from fxfeat.ir.tap import Tap
from fxfeat.runtime.tapped_run import TappedRun

REGISTERING = threading.Lock()
"""Torch numbers hooks without a lock: two threads could give two hooks of one module the same number."""


@contextmanager
def copying_results(run: TappedRun, wanted: Mapping[nn.Module, Sequence[Tap]]) -> Iterator[None]:
    """Copy what some modules return or are called with, as the last of their hooks.

    A hook changes what a module computes where torch asks for hooks: it turns off the fast path of
    ``nn.TransformerEncoderLayer`` around it, as a hook of the user's would.
    """
    scripted: dict[nn.Module, Sequence[Tap]] = {
        module: taps for module, taps in wanted.items() if isinstance(module, torch.jit.ScriptModule)
    }
    with ExitStack() as undo:
        for module, taps in wanted.items():
            if module not in scripted:
                enter, leave = _hooks_of(run, {module: taps})
                _put_on(undo, module.register_forward_pre_hook, enter, prepend=True)
                _put_on(undo, module.register_forward_hook, leave)
                if any(tap.is_input for tap in taps):
                    _put_on(
                        undo, module.register_forward_pre_hook, _looks_at_arguments(run, taps, module), with_kwargs=True
                    )
        if scripted:
            # It takes no hooks of its own, and shows in those on every module.
            enter, leave = _hooks_of(run, scripted)
            _put_on(undo, register_module_forward_pre_hook, enter)
            _put_on(undo, register_module_forward_hook, leave)
            for module, taps in scripted.items():
                if any(tap.is_input for tap in taps):
                    _put_on(undo, register_module_forward_pre_hook, _looks_at_arguments(run, taps, module))
        yield


def _put_on(undo: ExitStack, register: Callable[..., RemovableHandle], hook: Any, **options: bool) -> None:
    with REGISTERING:
        undo.callback(register(hook, **options).remove)


def _hooks_of(run: TappedRun, wanted: Mapping[nn.Module, Sequence[Tap]]) -> tuple[Any, Any]:
    def enter(module: nn.Module, args: Any) -> None:
        if module in wanted and run.is_ours():
            run.calls.enter(module, sys._getframe(1))

    def leave(module: nn.Module, args: Any, result: Any) -> None:
        if module not in wanted or not run.is_ours():
            return
        number = run.calls.leave(module)
        for tap in wanted[module]:
            if not tap.is_input:
                _copy(run, tap, result, number)

    return enter, leave


def _looks_at_arguments(run: TappedRun, taps: Sequence[Tap], only: nn.Module) -> Any:
    """Return a hook that copies what a module is called with, of a call that has been entered.

    A copy that code makes of the module has the hook as well.
    """

    def look(module: nn.Module, args: Any, kwargs: Any = types.MappingProxyType({})) -> None:
        if module is not only or not run.is_ours():
            return
        for tap in taps:
            if tap.is_input:
                _copy(run, tap, (args, kwargs), run.calls.under_way[-1].number)

    return look


def _copy(run: TappedRun, tap: Tap, value: Any, number: int) -> None:
    if tap.every:
        run.copy_listed(tap, value, number)
    elif tap.call in (None, number):
        run.copy(tap, value)
