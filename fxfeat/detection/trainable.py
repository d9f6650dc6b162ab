"""Which parameters stay as they are while a detector is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fxfeat.errors import RequestError
from fxfeat.vision.integers import read_int


def read_trainable_levels(trainable_levels: Any) -> int | None:
    """Check ``trainable_levels``.

    Raises:
        RequestError: where it is not None or a number of levels.
    """
    count = read_int(trainable_levels)
    if trainable_levels is None or (count is not None and count >= 0):
        return count
    raise RequestError(
        f"trainable_levels is {trainable_levels!r}; it must be None (all) or the number of levels to train, counted "
        "from the last: 0 for none."
    )


def find_trainable(used: Sequence[frozenset[str]], trainable_levels: int | None) -> frozenset[str]:
    """Name the parameters of the last few levels.

    A parameter belongs to the first level that depends on it. Where all levels are trained, so is all before them.

    Example:
        >>> used = [frozenset({"stem"}), frozenset({"stem", "layer1"}), frozenset({"stem", "layer1", "layer2"})]
        >>> sorted(find_trainable(used, 2))
        ['layer1', 'layer2']

    Args:
        used: the names of the parameters that each level depends on, from the finest level of the model to the last.
        trainable_levels: how many levels to train; None for all.
    """
    everything = frozenset().union(*used)
    if trainable_levels is None or trainable_levels >= len(used):
        return everything
    frozen = used[: len(used) - trainable_levels]
    return everything - frozenset().union(*frozen)
