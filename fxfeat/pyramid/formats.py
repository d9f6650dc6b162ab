"""Bring a map from the layout a model works in to the one that was asked for."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import torch

from fxfeat.errors import GuardError, RequestError
from fxfeat.vision.layout import Layout, Order

FORMATS: tuple[Order, ...] = ("NCHW", "NHWC", "NLC")
TOKENS: tuple[Order, ...] = ("NLC", "LNC")


def check_format(output_fmt: Any) -> Order:
    """Check the format asked for.

    Raises:
        RequestError: where there is no such format.
    """
    if output_fmt not in FORMATS:
        raise RequestError(f"output_fmt is {output_fmt!r}; it must be one of {', '.join(map(repr, FORMATS))}.")
    checked: Order = output_fmt
    return checked


def to_format(value: torch.Tensor, layout: Layout, image: tuple[int, ...], wanted: Order) -> torch.Tensor:
    """Bring a map to another layout, without the tokens that are not the grid's.

    Example:
        >>> layout = Layout("NLC", (14, 14), 384, (16.0, 16.0), prefix=1)
        >>> to_format(torch.zeros(2, 197, 384), layout, (224, 224), "NCHW").shape
        torch.Size([2, 384, 14, 14])

    Args:
        value: the map, of shape ``(N, C, *grid)``, ``(N, *grid, C)``, ``(N, tokens, C)`` or
            ``(tokens, N, C)``.
        layout: how it holds it.
        image: the size of the image that it was computed from, without batch and channels.
        wanted: ``NCHW``, ``NHWC`` or ``NLC``.

    Raises:
        GuardError: where the number of tokens fits no grid for this image, or their order or steps are known for
            another one.
    """
    if layout.image not in (None, image):
        raise GuardError(
            f"The model brings its images to one size, so the steps of its maps are known for images of {layout.image} "
            f"pixels; this one has {image}. Create the pyramid with example_inputs= like this input."
        )
    of_tokens = layout.order in TOKENS
    if of_tokens:
        value = _take_tokens(tokens_of(value, layout), layout, image)
    if layout.order == wanted or (of_tokens and wanted == "NLC"):
        return value
    if of_tokens:
        value = value.unflatten(1, find_grid(value.shape[1], layout, image))
    elif layout.order == "NCHW":
        value = value.movedim(1, -1)
    if wanted == "NLC":
        return value.flatten(1, -2)
    return value.movedim(-1, 1).contiguous() if wanted == "NCHW" else value


def tokens_of(value: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Put the images of a batch of tokens first, those that are not the grid's included."""
    return value.transpose(0, 1) if layout.order == "LNC" else value


def _take_tokens(value: torch.Tensor, layout: Layout, image: tuple[int, ...]) -> torch.Tensor:
    """Take the tokens of the grid, in the order of the image's rows."""
    if layout.sorting is None:
        return value[:, layout.prefix : value.shape[1] - layout.suffix] if layout.prefix or layout.suffix else value
    if layout.sorting.image != image:
        raise GuardError(
            f"The model keeps its tokens in an order of its own, which is known for images of {layout.sorting.image} "
            f"pixels; this one has {image}. Create the pyramid with example_inputs= like this input."
        )
    return value[:, list(layout.sorting.index)]


def take_grid_tokens(value: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Take the tokens of the grid in the order in which the model keeps them, whatever the image's size.

    >>> take_grid_tokens(torch.arange(4).view(1, 4, 1), Layout("NLC", (1, 3), 1, (8.0, 8.0), prefix=1)).flatten()
    tensor([1, 2, 3])

    Raises:
        GuardError: where others lie between them, and it is not known where for so many.
    """
    value = tokens_of(value, layout)
    count = value.shape[1] - layout.suffix - layout.prefix
    if layout.sorting is None or layout.places == len(range(min(layout.sorting.index), max(layout.sorting.index) + 1)):
        return value.narrow(1, layout.prefix, count)
    if count != max(layout.sorting.index) + 1 - layout.prefix:
        raise GuardError(
            "Other tokens lie between those of the image, where is known for images of "
            f"{layout.sorting.image} pixels. Create the backbone with example_inputs= like this input."
        )
    return value[:, sorted(layout.sorting.index)]


def find_grid(places: int, layout: Layout, image: tuple[int, ...]) -> tuple[int, ...]:
    """Find the grid of so many places over an image: by the windows that slide over it, else by rounding its size.

    >>> find_grid(6, Layout("NLC", (14, 14), 8, (16.0, 16.0)), (32, 50))
    (2, 3)

    Raises:
        GuardError: where there is none, or where the places fit two.
    """
    if layout.windows is not None:
        grid = functools.reduce(lambda size, window: window.size_of(size), layout.windows, image)
        if math.prod(grid) == places:
            return grid
    steps = tuple(max(1, round(step)) for step in layout.scale)
    exact = [pixels / step for pixels, step in zip(image, steps, strict=True)]
    sizes = [{math.floor(size), math.ceil(size), round(size)} for size in exact]
    fitting = [grid for grid in itertools.product(*sizes) if math.prod(grid) == places]
    if not fitting and layout.places == places and _is_near(layout.grid, exact):
        return layout.grid
    if len(fitting) == 1:
        return fitting[0]
    which = "no grid" if not fitting else " and ".join(f"a grid of {grid}" for grid in sorted(fitting))
    raise GuardError(
        f"The map has {places} places, which fit {which} over an image of {image} pixels in steps of {steps}. "
        "Create the pyramid with example_inputs= like this input."
    )


def _is_near(grid: tuple[int, ...], exact: list[float]) -> bool:
    return all(abs(count - size) <= 1 for count, size in zip(grid, exact, strict=True))
