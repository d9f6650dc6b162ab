"""Which levels are asked for, as timm counts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fxfeat.errors import RequestError


def take_indices(count: int, indices: int | Sequence[int] | None) -> tuple[list[int], int]:
    """Read ``indices``: the last n, or indices of which negative ones count from the end, or None for all.

    >>> take_indices(12, 3), take_indices(4, (0, -1)), take_indices(2, None)
    (([9, 10, 11], 11), ([0, 3], 3), ([0, 1], 1))

    Returns:
        The indices from 0 in the order asked, and the largest.

    Raises:
        RequestError: where there is no such level.
    """
    if indices is None:
        return list(range(count)), count - 1
    if isinstance(indices, int) and not isinstance(indices, bool):
        if not 0 < indices <= count:
            raise RequestError(f"indices={indices} asks for the last {indices} levels, and there are {count}.")
        return list(range(count - indices, count)), count - 1
    asked: list[Any] = list(indices) if isinstance(indices, (list, tuple, range)) else []
    if not asked or not all(type(index) is int for index in asked):
        raise RequestError(f"indices is {indices!r}; it must be an int, several as in (2, -1), or None for all levels.")
    wrong = [index for index in asked if not -count <= index < count]
    if wrong:
        raise RequestError(
            f"indices={tuple(asked)} asks for level {wrong[0]}; there are {count}: 0 to {count - 1}, or -{count} to -1."
        )
    found = [index % count for index in asked]
    return found, max(found)
