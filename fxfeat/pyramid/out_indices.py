"""Which levels are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fxfeat.errors import RequestError
from fxfeat.pyramid.levels import Level

_MOST_LEVELS = 5
_BLOCKS = 3


def read_out_indices(out_indices: Any, levels: Sequence[Level], flat: bool) -> tuple[int, ...]:
    """Read ``out_indices``: the last n, or indices of which negative ones count from the end.

    Args:
        out_indices: an int, several ints in the order wanted, or None for the usual levels.
        levels: all there are.
        flat: whether they are blocks of one resolution.

    Raises:
        RequestError: where there is no such level.
    """
    if out_indices is None:
        return _choose_usual(levels, flat)
    if isinstance(out_indices, int) and not isinstance(out_indices, bool):
        if not 0 < out_indices <= len(levels):
            raise RequestError(f"out_indices={out_indices} asks for the last {out_indices} levels. {_list(levels)}")
        return tuple(range(len(levels) - out_indices, len(levels)))
    if not isinstance(out_indices, (tuple, list)) or not all(type(index) is int for index in out_indices):
        raise RequestError(f"out_indices is {out_indices!r}; it must be an int or several, as in (1, 2, 3) or 3.")
    if not out_indices:
        raise RequestError(f"out_indices is empty; ask for at least one level. {_list(levels)}")
    wrong = [index for index in out_indices if not -len(levels) <= index < len(levels)]
    if wrong:
        raise RequestError(f"out_indices={tuple(out_indices)} asks for level {wrong[0]}. {_list(levels)}")
    return tuple(index % len(levels) for index in out_indices)


def _choose_usual(levels: Sequence[Level], flat: bool) -> tuple[int, ...]:
    if flat:
        return tuple(level.index for level in levels[-_BLOCKS:])
    usual = [level.index for level in levels if 2 <= level.reduction <= 2**_MOST_LEVELS]
    return tuple(usual[-_MOST_LEVELS:] or [level.index for level in levels][-_MOST_LEVELS:])


def _list(levels: Sequence[Level]) -> str:
    shown = [f"{level.index} ({level.module}, reduction {level.reduction})" for level in levels]
    if len(shown) > 8:
        shown = [*shown[:2], "...", *shown[-2:]]
    return f"The model has {len(levels)} levels: {', '.join(shown)}."
