"""Listen to the torch functions that a module's own code calls, at the cost of a hook for each module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode, _get_current_function_mode

from fxfeat.ir.emission import Row
from fxfeat.ir.feature import OpOccurrence
from fxfeat.ir.tree import follow, has, replace_at
from fxfeat.ir.value_replacement import Replacement
from fxfeat.isolation.module_paths import paths_of

Look = Callable[[Row, Any], None]
OpOccurrences = list[tuple[Row, OpOccurrence]]
Replacements = list[tuple[Replacement, OpOccurrence]]


@contextmanager
def listening(
    model: nn.Module,
    wanted: Mapping[tuple[nn.Module, int], OpOccurrences],
    look: Look,
    replacing: Mapping[tuple[nn.Module, int], Replacements] = MappingProxyType({}),
) -> Iterator[None]:
    """Listen while a model runs, and put other values in the place of some.

    Args:
        model: the model; what other modules do counts as done by the code that calls them.
        wanted: what to listen for in each call of a module, by its number.
        look: called with each row and its value.
        replacing: what is replaced in each call of a module.
    """
    if not (wanted or replacing):
        yield
        return
    listener = _CallListener(model, wanted, look, replacing)
    before = register_module_forward_pre_hook(listener.enter)
    after = register_module_forward_hook(listener.leave, always_call=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()


class _CallListener:
    """Listens in the code of the innermost module call only: in a mode, torch's own modules go another way."""

    def __init__(
        self,
        model: nn.Module,
        wanted: Mapping[tuple[nn.Module, int], OpOccurrences],
        look: Look,
        replacing: Mapping[tuple[nn.Module, int], Replacements],
    ) -> None:
        self._modules, self._wanted, self._look, self._replacing = paths_of(model), wanted, look, replacing
        self._calls: Counter[nn.Module] = Counter()
        self._around: list[_Listener | None] = []

    def enter(self, module: nn.Module, inputs: Any) -> None:
        if module not in self._modules:
            return
        _stop(self._around[-1] if self._around else None)
        place = (module, self._calls[module])
        wanted, replacing = self._wanted.get(place, []), self._replacing.get(place, [])
        self._calls[module] += 1
        self._around.append(_Listener(wanted, self._look, replacing) if wanted or replacing else None)
        _start(self._around[-1])

    def leave(self, module: nn.Module, inputs: Any, result: Any) -> None:
        if module not in self._modules:
            return
        _stop(self._around.pop())
        _start(self._around[-1] if self._around else None)


class _Listener(TorchFunctionMode):
    def __init__(self, wanted: OpOccurrences, look: Look, replacing: Replacements) -> None:
        super().__init__()
        self._replacing = {(sign.function, sign.number): (each, sign) for each, sign in replacing}
        self.listens = False
        self._look = look
        self._counts: Counter[str] = Counter()
        self._wanted: dict[tuple[str, int], OpOccurrences] = {}
        for row, occurrence in wanted:
            self._wanted.setdefault((occurrence.function, occurrence.number), []).append((row, occurrence))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        number = self._counts[name]
        self._counts[name] += 1
        result = func(*args, **(kwargs or {}))
        if (name, number) in self._replacing:
            replacement, sign = self._replacing[name, number]
            result = replace_at(result, sign.steps, replacement.function(follow(result, sign.steps)))
        for row, occurrence in self._wanted.get((name, number), ()):
            if has(result, occurrence.steps):
                self._look(row, follow(result, occurrence.steps))
        return result


def _start(listener: _Listener | None) -> None:
    if listener is not None and not listener.listens:
        listener.listens = True
        listener.__enter__()


def _stop(listener: _Listener | None) -> None:
    """Leave the mode, but not out of turn, where the model's code has entered one of its own since."""
    if listener is not None and _get_current_function_mode() is listener:
        listener.listens = False
        listener.__exit__(None, None, None)
