"""Find the elements of a dense value that are those of the strided one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from fxfeat.stride.grid import Axes, Grid


@dataclass(frozen=True)
class Lattice:
    """Every how manieth element of each axis is taken; axes of tokens hold the positions of a whole map.

    ``steps`` has one number per axis of the value, ``spread`` one per spatial axis of the map behind ``tokens``.
    """

    steps: Axes
    tokens: Axes = ()
    ours: Axes = ()
    theirs: Axes = ()

    @property
    def spread(self) -> Axes:
        """The steps along the spatial axes."""
        if self.tokens:
            return tuple(round(a / b) for a, b in zip(self.ours, self.theirs, strict=True))
        return tuple(step for step in self.steps if step > 1)

    def offsets(self) -> Iterator[Axes]:
        """Yield each place where the strided map may begin in the dense one."""
        yield from itertools.product(*(range(step) for step in self.spread))

    def index(self, shape: Axes, theirs: Axes, offset: Axes) -> tuple[slice | torch.Tensor, ...]:
        """Return the index that picks from a value of ``shape`` one of the shape ``theirs``."""
        starts = iter(offset)
        index: list[slice | torch.Tensor] = []
        for axis, (step, size) in enumerate(zip(self.steps, theirs, strict=True)):
            if axis in self.tokens:
                index.append(self._of_tokens(axis, shape[axis], size, offset))
                continue
            start = next(starts, 0) if step > 1 else 0
            index.append(slice(start, start + (size - 1) * step + 1, step))
        return tuple(index)

    def _of_tokens(self, axis: int, size: int, theirs: int, offset: Axes) -> torch.Tensor:
        places = torch.arange(size)
        prefix = theirs - torch.Size(self.theirs).numel()
        grid = places[prefix:].reshape(self.ours)
        rows = tuple(
            slice(start, start + (count - 1) * step + 1, step)
            for start, count, step in zip(offset, self.theirs, self.spread, strict=True)
        )
        picked = torch.cat([places[:prefix], grid[rows].flatten()])
        # Two axes of tokens, as attention has them, are picked from crosswise.
        return picked.reshape(-1, *(1 for other in self.tokens if other > axis))


def find_lattice(ours: Axes, theirs: Axes, our_grid: Grid | None, their_grid: Grid | None) -> Lattice | None:
    """Tell from the shapes how a dense value holds a strided one; None where it cannot.

    >>> find_lattice((1, 8, 28, 28), (1, 8, 14, 14), None, None).steps
    (1, 1, 2, 2)

    Args:
        ours: the shape of the dense value.
        theirs: the shape of the strided value.
        our_grid: the positions of the dense value, where they are known.
        their_grid: the positions of the strided value, where they are known.
    """
    if len(ours) != len(theirs):
        return None
    if our_grid is not None and their_grid is not None:
        tokens = _token_axes(ours, theirs, our_grid, their_grid)
        if tokens:
            return Lattice((1,) * len(ours), tokens, our_grid.sizes, their_grid.sizes)
    steps = tuple(round(mine / other) if other else 1 for mine, other in zip(ours, theirs, strict=True))
    fits = all(
        step >= 1 and (mine == other if step == 1 else mine >= (other - 1) * step + 1)
        for mine, other, step in zip(ours, theirs, steps, strict=True)
    )
    return Lattice(steps) if fits else None


def _token_axes(ours: Axes, theirs: Axes, our_grid: Grid, their_grid: Grid) -> Axes:
    """List the axes that hold all positions of both, with as many tokens more in front."""
    if their_grid.has_axes(theirs) or len(their_grid.sizes) != len(our_grid.sizes):
        return ()
    differing = [axis for axis in range(len(ours)) if ours[axis] != theirs[axis]]
    surplus = {(ours[axis] - our_grid.tokens, theirs[axis] - their_grid.tokens) for axis in differing}
    fits = len(surplus) == 1 and all(mine == other and other >= 0 for mine, other in surplus)
    return tuple(differing) if fits else ()
