"""Where a value lies on the image: its sizes, how coarse it stays, and how much coarser it was before."""

from __future__ import annotations

import math
from dataclasses import dataclass

Axes = tuple[int, ...]


@dataclass(frozen=True)
class Grid:
    """The positions of one value of a recording, per spatial axis.

    ``sizes`` are the recorded ones. ``density`` is the reduction of the image that is kept, ``rate`` the product of
    the strides to be removed on the way here, so that ``density * rate`` is the reduction of the recorded value.
    """

    sizes: Axes
    density: Axes
    rate: Axes

    @property
    def reduction(self) -> Axes:
        """The reduction of the recorded value."""
        return tuple(d * r for d, r in zip(self.density, self.rate, strict=True))

    @property
    def is_dense(self) -> bool:
        """Whether a stride is removed on the way here."""
        return any(rate > 1 for rate in self.rate)

    def is_shown_by(self, shape: Axes) -> bool:
        """Say whether a shape has these positions, as axes of their own or as one axis of tokens.

        >>> Grid((14, 7), (16, 16), (1, 1)).is_shown_by((2, 99, 64))
        True
        """
        return self.has_axes(shape) or self.has_tokens(shape)

    def has_axes(self, shape: Axes) -> bool:
        """Say whether a shape holds the spatial sizes side by side."""
        return bool(self._starts(shape))

    def has_tokens(self, shape: Axes) -> bool:
        """Say whether a shape holds all positions on one axis, with a few tokens more in front."""
        return bool(self._token_axes(shape))

    def axes_in(self, shape: Axes) -> Axes:
        """List the axes of a shape that hold positions.

        >>> Grid((14, 7), (16, 16), (1, 1)).axes_in((2, 64, 14, 7))
        (2, 3)
        """
        starts = self._starts(shape)
        if starts:
            return tuple(range(starts[-1], starts[-1] + len(self.sizes)))
        return self._token_axes(shape)

    def first_axis(self, shape: Axes) -> int:
        """Return the first spatial axis of a shape, -1 where it has none."""
        return max(self._starts(shape), default=-1)

    @property
    def tokens(self) -> int:
        """The number of positions."""
        return math.prod(self.sizes)

    def _starts(self, shape: Axes) -> list[int]:
        rank = len(self.sizes)
        return [start for start in range(1, len(shape) - rank + 1) if tuple(shape[start : start + rank]) == self.sizes]

    def _token_axes(self, shape: Axes) -> Axes:
        # One number per channel, as a global pool leaves, is no row of tokens.
        if len(self.sizes) < 2 or len(shape) < 3 or max(shape[1:]) == math.prod(shape[1:]):
            return ()
        sizes = range(self.tokens, self.tokens + _MOST_PREFIX_TOKENS + 1)
        return tuple(axis for axis, size in enumerate(shape) if axis > 0 and size in sizes)


_MOST_PREFIX_TOKENS = 16
