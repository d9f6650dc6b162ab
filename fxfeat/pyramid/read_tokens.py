"""Read from where its tokens lie how a value holds a map of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from fxfeat.pyramid.places import Places
from fxfeat.vision.layout import Layout, Order, Sorting

_PRECISION = 1e-3


def read_tokens(places: Places, image: tuple[int, ...], order: Order) -> Layout | None:
    """Say how tokens hold a map; None where they are not all the places of one grid, once each.

    Args:
        places: of a value of three axes.
        image: its size.
        order: ``NLC`` or ``LNC``.

    Example:
        >>> rows, columns = (torch.tensor([torch.nan, *axis]).view(1, 5, 1) for axis in ((1, 1, 9, 9), (1, 9, 1, 9)))
        >>> read_tokens((rows, columns), (16, 16), "NLC")
        Layout(order='NLC', grid=(2, 2), channels=1, scale=(8.0, 8.0), prefix=1, suffix=0, sorting=None, image=None)
    """
    if not all(isinstance(axis, torch.Tensor) and axis.dim() == 3 for axis in places):
        return None
    places = places if order == "NLC" else tuple(axis.transpose(0, 1) for axis in places)
    # A token may hold several places, such as the pixels of its patch.
    middle = torch.stack([axis.nanmean(-1) for axis in places]).div(_PRECISION).round()
    lying = middle[:, 0]
    if not torch.equal(middle.nan_to_num(), lying.nan_to_num().unsqueeze(1).expand_as(middle)):
        return None
    on_image = ~lying.isnan().any(0)
    index = on_image.nonzero().flatten()
    axes = [axis[on_image].unique() for axis in lying]
    grid = tuple(len(axis) for axis in axes)
    # One row of places is what is left of a map that was summed over its rows.
    if min(grid) < 2 or math.prod(grid) != len(index):
        return None
    at = [torch.searchsorted(axis, line[on_image].contiguous()) for axis, line in zip(axes, lying, strict=True)]
    number = sum(line * math.prod(grid[axis + 1 :]) for axis, line in enumerate(at))
    assert isinstance(number, torch.Tensor)
    if len(number.unique()) != len(number):
        return None
    rows = index[number.argsort()].tolist()
    first, last = int(index[0]), int(index[-1])
    scale = tuple(float(axis.diff().median()) * _PRECISION for axis in axes)
    sorting = None if rows == list(range(first, last + 1)) else Sorting(tuple(rows), image)
    return Layout(order, grid, places[0].shape[2], scale, first, lying.shape[1] - last - 1, sorting)


def is_in_order(places: Places, axes: Sequence[int]) -> bool:
    """Say whether a value's places grow along its own axes, each along one of them.

    >>> is_in_order(tuple(torch.meshgrid(torch.arange(2), torch.arange(3), indexing="ij")), (0, 1))
    True
    """
    return all(_grows(place, axis) for place, axis in zip(places, axes, strict=True))


def _grows(place: torch.Tensor, axis: int) -> bool:
    lines = place.movedim(axis, 0).flatten(1)
    first = lines[:, :1]
    return bool((lines == first).all()) and bool((first.diff(dim=0) > 0).all())
