"""Copy what modules return, by hooks that stand only while a tapped run is under way."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from fxfeat.ir.tap import Tap
from fxfeat.runtime.tapped_run import TappedRun

REGISTERING = threading.Lock()
"""Torch numbers hooks without a lock: two threads could give two hooks of one module the same number."""


@contextmanager
def copying_results(run: TappedRun, wanted: Mapping[nn.Module, Sequence[Tap]]) -> Iterator[None]:
    """Copy what some modules return, as the last of their hooks.

    A hook changes what a module computes where torch asks for hooks: it turns off the fast path of
    ``nn.TransformerEncoderLayer`` around it, as a hook of the user's would.
    """
    with ExitStack() as undo:
        for module, taps in wanted.items():
            before, after = _hooks_of(run, taps)
            with REGISTERING:
                undo.callback(module.register_forward_pre_hook(before, prepend=True).remove)
                undo.callback(module.register_forward_hook(after).remove)
        yield


def _hooks_of(run: TappedRun, taps: Sequence[Tap]) -> tuple[Any, Any]:
    def enter(module: nn.Module, args: Any) -> None:
        if run.is_ours():
            run.enter(module)

    def leave(module: nn.Module, args: Any, result: Any) -> None:
        if not run.is_ours():
            return
        number = run.leave(module)
        for tap in taps:
            if tap.call is None or tap.call == number:
                run.copy(tap, result)

    return enter, leave
