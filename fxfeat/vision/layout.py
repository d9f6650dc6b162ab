"""How a value holds a map of the image: which axes are the grid's, and how much smaller it is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

Order = Literal["NCHW", "NHWC", "NLC", "LNC"]


@dataclass(frozen=True)
class Sorting:
    """The order of tokens that are not in the order of the image's rows, which is known for one size of image.

    Attributes:
        index: which token each place of the grid is, row by row.
        image: the size of the image, without batch and channels.
    """

    index: tuple[int, ...]
    image: tuple[int, ...]


@dataclass(frozen=True)
class Sliding:
    """A window that slides along each axis.

    Attributes:
        reach: how far its last element lies from its first.
        step: by how much it moves.
        padding: how much is added at both ends together.
        ceil: whether a last window may reach beyond the end.
    """

    reach: tuple[int, ...]
    step: tuple[int, ...]
    padding: tuple[int, ...]
    ceil: bool = False

    def size_of(self, given: tuple[int, ...]) -> tuple[int, ...]:
        """Say how many places there are for a grid of some size.

        >>> Sliding((6, 6), (2, 2), (6, 6)).size_of((224, 225))
        (112, 113)
        """
        return tuple(map(self._count, given, self.reach, self.step, self.padding))

    def _count(self, size: int, reach: int, step: int, padding: int) -> int:
        slack = size + padding - reach - 1
        count = slack // step + 1
        # A window that would begin in the padding behind the end is left out.
        if self.ceil and slack % step and count * step < size + padding // 2:
            count += 1
        return count


@dataclass(frozen=True)
class Layout:
    """How a value holds a map.

    Attributes:
        order: ``NCHW`` (one channel axis, then the grid), ``NHWC`` (the grid, then channels), ``NLC`` (tokens) or
            ``LNC`` (tokens before images). The same words are used for grids of one or three axes.
        grid: the size of the map, as in ``(14, 14)``.
        channels: how many numbers each place has.
        scale: how many pixels of the image one step on each axis of the grid is, not rounded.
        prefix: how many tokens come before those of the grid.
        suffix: how many tokens come behind those of the grid.
        sorting: where the tokens of the grid stand, if not row by row and side by side.
        image: the only size of image that it is of this scale for, where the model brings all to one.
        windows: what slides between the image and the map, where the size of the grid follows from that alone.
    """

    order: Order
    grid: tuple[int, ...]
    channels: int
    scale: tuple[float, ...]
    prefix: int = 0
    suffix: int = 0
    sorting: Sorting | None = None
    image: tuple[int, ...] | None = None
    windows: tuple[Sliding, ...] | None = field(default=None, repr=False)

    @property
    def size(self) -> float:
        """The scale as one number."""
        return math.prod(self.scale) ** (1 / len(self.scale))

    @property
    def places(self) -> int:
        """How many places the grid has."""
        return math.prod(self.grid)
