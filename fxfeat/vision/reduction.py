"""How many pixels one step on a grid is: one number where all directions agree, else one for each axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

Reduction = int | tuple[int, ...]


def join_axes(steps: Sequence[int]) -> Reduction:
    """Write the steps along all axes as one number where they agree.

    >>> join_axes((8, 8)), join_axes((8, 4))
    (8, (8, 4))
    """
    return steps[0] if len(set(steps)) == 1 else tuple(steps)


def split_axes(reduction: Reduction, rank: int = 2) -> tuple[int, ...]:
    """Write the step along each axis.

    >>> split_axes(8), split_axes((8, 4))
    ((8, 8), (8, 4))
    """
    return (reduction,) * rank if isinstance(reduction, int) else reduction


def coarsest(reduction: Reduction) -> int:
    """Return the greatest step along any axis.

    >>> coarsest(8), coarsest((8, 4))
    (8, 8)
    """
    return max(split_axes(reduction))


def side_of(reduction: Reduction) -> float:
    """Return the side of a square as large as what one step along each axis spans.

    >>> side_of(8), side_of((16, 4))
    (8, 8.0)
    """
    return reduction if isinstance(reduction, int) else math.prod(reduction) ** (1 / len(reduction))
