"""Which levels are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fxfeat.errors import RequestError
from fxfeat.pyramid.levels import Level
from fxfeat.vision.integers import to_plain
from fxfeat.vision.level_indices import Wording, read_level_indices
from fxfeat.vision.reduction import coarsest, join_axes

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
    listed = _list(levels)
    wording = Wording(
        "out_indices",
        "an int or several, as in (1, 2, 3) or 3",
        after_count=f". {listed}",
        after_index=f". {listed}",
        empty=f"out_indices is empty; ask for at least one level. {listed}",
    )
    return read_level_indices(out_indices, len(levels), wording)


def read_strides(strides: Any, levels: Sequence[Level]) -> tuple[int, ...]:
    """Read ``strides``: for each the last level of that reduction.

    Args:
        strides: an int, or several, or pairs, in the order wanted.
        levels: all there are.

    Raises:
        RequestError: where there is no such level.
    """
    plain = to_plain(strides)
    listed = [plain] if isinstance(plain, int) else plain
    if isinstance(listed, str) or not isinstance(listed, Iterable):
        raise RequestError(f"strides is {strides!r}; it must be one or several reductions, as in (4, 8, 16, 32).")
    last = {level.reduction: level.index for level in levels}
    wanted = [_read_stride(to_plain(stride)) for stride in listed]
    missing = [stride for stride in wanted if stride not in last]
    if missing or not wanted:
        what = f"no level has a reduction of {missing[0]}" if missing else "it names none"
        raise RequestError(f"strides is {strides!r}, but {what}. {_list(levels)}")
    return tuple(last[stride] for stride in wanted)


def _read_stride(stride: Any) -> Any:
    return join_axes(stride) if isinstance(stride, (tuple, list)) and stride else stride


def _choose_usual(levels: Sequence[Level], flat: bool) -> tuple[int, ...]:
    if flat:
        return tuple(level.index for level in levels[-_BLOCKS:])
    usual = [level.index for level in levels if 2 <= coarsest(level.reduction) <= 2**_MOST_LEVELS]
    return tuple(usual[-_MOST_LEVELS:] or [level.index for level in levels][-_MOST_LEVELS:])


def _list(levels: Sequence[Level]) -> str:
    shown = [f"{level.index} ({level.module}, reduction {level.reduction})" for level in levels]
    if len(shown) > 8:
        shown = [*shown[:2], "...", *shown[-2:]]
    return f"The model has {len(levels)} levels: {', '.join(shown)}."
