"""Which levels are asked for, as timm counts them."""

from __future__ import annotations

from collections.abc import Sequence

from fxfeat.vision.level_indices import Wording, read_level_indices


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
    wording = Wording(
        "indices",
        "an int, several as in (2, -1), or None for all levels",
        after_count=f", and there are {count}.",
        after_index=f"; there are {count}: 0 to {count - 1}, or -{count} to -1.",
    )
    taken = read_level_indices(indices, count, wording)
    return list(taken), max(taken)
