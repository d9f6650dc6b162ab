"""Where a value lies on the image: its sizes, how coarse it stays, and how much coarser it was before."""

from __future__ import annotations

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
        rank = len(self.sizes)
        return any(tuple(shape[start : start + rank]) == self.sizes for start in range(1, len(shape) - rank + 1))

    def has_tokens(self, shape: Axes) -> bool:
        """Say whether a shape holds all positions on one axis, with a few tokens more in front."""
        if len(self.sizes) < 2:
            return False
        tokens = self.tokens
        return any(tokens <= size <= tokens + _MOST_PREFIX_TOKENS for size in shape[1:])

    @property
    def tokens(self) -> int:
        """The number of positions."""
        count = 1
        for size in self.sizes:
            count *= size
        return count


_MOST_PREFIX_TOKENS = 16
