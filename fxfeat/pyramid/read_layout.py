"""Read from its shape in which layout a value holds a map of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fxfeat.vision.layout import Layout, Order
from fxfeat.vision.shapes import Shape

_MOST_FITTING = 3


@dataclass(frozen=True)
class Extent:
    """The image's batch, and its height and width, at the example's size and at a second one if there is one."""

    batch: int
    grid: tuple[int, ...]
    larger: tuple[int, ...] | None = None


def read_layout(
    shape: Shape, larger: Shape | None, extent: Extent, near: Sequence[Layout] = (), slid: bool = False
) -> Layout | None:
    """Say how a value of some shape holds a map of the image; None where it holds none.

    Over two image sizes, a grid's axes are those that grow with the image. Over one, they are those that fit the grids
    of the values it was computed from.

    Args:
        shape: of the value.
        larger: its shape for the second, larger image.
        extent: the image's sizes.
        near: the layouts of the values that it was computed from, nearest first.
        slid: whether a convolution, a pool or an interpolation made it, whose result is sure to be ``NCHW``.

    Example:
        >>> layout = read_layout((2, 64, 56, 56), (2, 64, 112, 112), Extent(2, (224, 224), (448, 448)))
        >>> layout.order, layout.grid, layout.channels, layout.scale
        ('NCHW', (56, 56), 64, (4.0, 4.0))
    """
    if len(shape) != len(extent.grid) + 2 or shape[0] != extent.batch:
        return None
    if larger is not None and larger[0] != extent.batch:
        return None
    orders: tuple[tuple[Order, slice, int], ...] = (("NCHW", slice(2, None), 1), ("NHWC", slice(1, -1), -1))
    fitting = []
    for order, place, channel in orders[: 1 if slid else 2]:
        if larger is not None:
            scale = _grow(shape[place], larger[place], extent) if larger[channel] == shape[channel] else None
        else:
            scale = _fit(shape[place], extent, near, slid)
        if scale is not None:
            fitting.append(Layout(order, shape[place], shape[channel], scale))
    # A grid of as many places as there are channels fits both; then it is what it was before.
    same = [layout for layout in fitting if any(layout.order == other.order for other in near[:1])]
    return next(iter(same or fitting), None)


def _grow(grid: Shape, larger: Shape, extent: Extent) -> tuple[float, ...] | None:
    """Return how many pixels of the image one step is, from how much the grid grows with it."""
    assert extent.larger is not None
    grown = [after - before for before, after in zip(grid, larger, strict=True)]
    if min(grown) <= 0:
        return None
    pixels = [after - before for before, after in zip(extent.grid, extent.larger, strict=True)]
    scale = tuple(image / step for image, step in zip(pixels, grown, strict=True))
    # A size that the model picks, whatever the image's, grows by steps that have nothing to do with the image's.
    sizes = zip(scale, extent.grid, grid, strict=True)
    return scale if all(image / step / 2 <= pixel <= image / step * 2 for pixel, image, step in sizes) else None


def _fit(grid: Shape, extent: Extent, near: Sequence[Layout], slid: bool) -> tuple[float, ...] | None:
    """Return how many pixels of the image one step is, if the grid is a whole part of one before it."""
    # A single place is what global pooling leaves.
    fits = slid or any(_is_whole_part(grid, other.grid) for other in near[:_MOST_FITTING])
    if math.prod(grid) <= 1 or not fits:
        return None
    return tuple(image / step for image, step in zip(extent.grid, grid, strict=True))


def _is_whole_part(grid: Shape, other: Shape) -> bool:
    """Say whether a grid is another one in whole steps, give or take the border.

    >>> _is_whole_part((7, 7), (14, 14)), _is_whole_part((4, 4), (7, 7)), _is_whole_part((16, 16), (7, 7))
    (True, True, False)
    >>> _is_whole_part((2, 8, 8), (2, 16, 16))
    True
    """
    steps = [round(before / size) for size, before in zip(grid, other, strict=True)]
    sizes = zip(steps, grid, other, strict=True)
    return min(steps) > 0 and all(abs(before / step - size) < 1 for step, size, before in sizes)
