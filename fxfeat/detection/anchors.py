"""Anchors that match the levels of a backbone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from torchvision.models.detection.anchor_utils import AnchorGenerator

from fxfeat.errors import RequestError
from fxfeat.vision.integers import to_plain
from fxfeat.vision.reduction import Reduction, side_of

_SIZE = 8


def make_anchors(
    strides: Sequence[Reduction], sizes: Any = None, aspect_ratios: Any = (0.5, 1.0, 2.0)
) -> AnchorGenerator:
    """Make anchors for levels of some strides.

    Example:
        >>> make_anchors((4, 8)).sizes
        ((32,), (64,))
        >>> make_anchors((4, 8), sizes=(16, 32), aspect_ratios=(1.0,)).num_anchors_per_location()
        [1, 1]

    Args:
        strides: of the levels, in pixels, extra levels included.
        sizes: one size in pixels, or a tuple of sizes, for each level; 8 times its stride if not given, or 8 times the
            side of a square as large as a step down and a step to the right span.
        aspect_ratios: height over width, the same for all levels, or a tuple for each level.

    Raises:
        RequestError: where these are no numbers, or do not fit the number of levels.
    """
    listed = _read(sizes if sizes is not None else _usual(strides), "sizes", "(32, 64)")
    if len(listed) != len(strides):
        raise RequestError(
            f"sizes has {len(listed)} entries, but the backbone has {len(strides)} levels, of strides "
            f"{tuple(strides)}, extra ones included. Pass one size or tuple of sizes for each level, for instance "
            f"sizes={tuple((size,) for size in _usual(strides))}."
        )
    ratios = _read(aspect_ratios, "aspect_ratios", "(0.5, 1.0, 2.0)")
    if not isinstance(to_plain(aspect_ratios)[0], (tuple, list)):
        ratios = (tuple(itertools.chain(*ratios)),) * len(strides)
    if len(ratios) != len(strides):
        raise RequestError(
            f"aspect_ratios has {len(ratios)} tuples, but the backbone has {len(strides)} levels, of strides "
            f"{tuple(strides)}, extra ones included. Pass one tuple for each level, or one for all of them, for "
            "instance aspect_ratios=(0.5, 1.0, 2.0)."
        )
    return check_anchors(AnchorGenerator(listed, ratios), strides)


def check_anchors(anchors: AnchorGenerator, strides: Sequence[Reduction]) -> AnchorGenerator:
    """Check that anchors fit levels of some strides, and that one head can serve them all.

    Raises:
        RequestError: where they do not.
    """
    counts = [len(sizes) * len(ratios) for sizes, ratios in zip(anchors.sizes, anchors.aspect_ratios, strict=False)]
    if len(counts) != len(strides):
        raise RequestError(
            f"The anchor generator is for {len(counts)} levels, but the backbone has {len(strides)}, of strides "
            f"{tuple(strides)}, extra ones included. Leave it out, or make it with backbone.anchor_generator(sizes=)."
        )
    if len(set(counts)) > 1:
        raise RequestError(
            f"The levels have {counts} anchors at each place; it must be the same number for all, since one head "
            "serves them all. Pass as many sizes and aspect ratios for each level."
        )
    return anchors


def _usual(strides: Sequence[Reduction]) -> list[int]:
    return [round(_SIZE * side_of(stride)) for stride in strides]


def _read(given: Any, name: str, instance: str) -> tuple[tuple[float, ...], ...]:
    """Read numbers, or tuples of them, as tuples of numbers."""
    plain = to_plain(given)
    parts = plain if isinstance(plain, (tuple, list, range)) else ()
    rows = tuple(tuple(row) if isinstance(row, (tuple, list)) else (row,) for row in map(to_plain, parts))
    if rows and all(row and all(map(_is_positive, row)) for row in rows):
        return rows
    raise RequestError(
        f"{name} is {given!r}; it must be a tuple of positive numbers or of tuples of them, such as {instance}."
    )


def _is_positive(number: Any) -> bool:
    plain = to_plain(number)
    return isinstance(plain, (int, float)) and not isinstance(plain, bool) and plain > 0
