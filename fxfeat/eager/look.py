"""Look at what torch functions return that a module's own code calls, and put other values in the place of some."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any

from torch import nn

from fxfeat.ir.emission import Row
from fxfeat.ir.feature import OpOccurrence
from fxfeat.ir.tree import follow, has, replace_at
from fxfeat.ir.value_replacement import Replacement
from fxfeat.isolation.module_paths import paths_of
from fxfeat.runtime.own_code import Listener, listening

Look = Callable[[Row, Any], None]
OpOccurrences = list[tuple[Row, OpOccurrence]]
Replacements = list[tuple[Replacement, OpOccurrence]]


def looking(
    model: nn.Module,
    wanted: Mapping[tuple[nn.Module, int], OpOccurrences],
    look: Look,
    replacing: Mapping[tuple[nn.Module, int], Replacements] = MappingProxyType({}),
) -> AbstractContextManager[None]:
    """Listen while a model runs.

    Args:
        model: the model; what other modules do counts as done by the code that calls them.
        wanted: what to look at in each call of a module, by its number.
        look: called with each row and its value.
        replacing: what is replaced in each call of a module.
    """

    def listener_of(module: nn.Module, number: int) -> Listener | None:
        rows, replaced = wanted.get((module, number), []), replacing.get((module, number), [])
        return _Looker(rows, look, replaced) if rows or replaced else None

    return listening(paths_of(model), listener_of) if wanted or replacing else nullcontext()


class _Looker(Listener):
    def __init__(self, wanted: OpOccurrences, look: Look, replacing: Replacements) -> None:
        super().__init__()
        self._look = look
        self._replacing = {(sign.function, sign.number): (each, sign) for each, sign in replacing}
        self._wanted: dict[tuple[str, int], OpOccurrences] = {}
        for row, occurrence in wanted:
            self._wanted.setdefault((occurrence.function, occurrence.number), []).append((row, occurrence))

    def hear(self, name: str, number: int, result: Any) -> Any:
        if (name, number) in self._replacing:
            replacement, sign = self._replacing[name, number]
            result = replace_at(result, sign.steps, replacement.function(follow(result, sign.steps)))
        for row, occurrence in self._wanted.get((name, number), ()):
            if has(result, occurrence.steps):
                self._look(row, follow(result, occurrence.steps))
        return result
