"""Copy what torch functions return that the own code of a module calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from fxfeat.ir.tap import Tap
from fxfeat.ir.tree import follow, has
from fxfeat.runtime.clone import clone_all
from fxfeat.runtime.own_code import Listener, listening
from fxfeat.runtime.tapped_run import TappedRun

FUSED = ("_transformer_encoder_layer_fwd", "_native_multi_head_attention")
"""Functions that do in one kernel what the code of torch's own modules else does step by step."""


def copying(
    run: TappedRun, whole: nn.Module, wanted: Mapping[nn.Module, Sequence[Tap]]
) -> AbstractContextManager[None]:
    """Listen while a module runs.

    Args:
        run: what keeps the values.
        whole: the module; what modules outside it do counts as done by the code that calls them.
        wanted: what to copy of the functions that the own code of each module calls.
    """

    def listener_of(module: nn.Module, number: int) -> Listener | None:
        taps = [tap for tap in wanted.get(module, ()) if tap.call == number]
        return _Copier(run, taps) if taps else None

    return listening(frozenset(whole.modules()), listener_of, run.is_ours) if wanted else nullcontext()


class _Copier(Listener):
    def __init__(self, run: TappedRun, taps: Sequence[Tap]) -> None:
        super().__init__()
        self._run, self._taps = run, taps
        self._fused = False
        self._unsure: dict[Tap, Any] = {}

    def hear(self, name: str, number: int, result: Any) -> Any:
        if name in FUSED:
            self._fused = True
            self._run.fused.append(name)
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
            if self.heard[tap.function] == tap.total:
                self._run.keep(tap, copied)
