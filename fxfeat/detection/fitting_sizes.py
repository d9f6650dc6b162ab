"""Which image sizes a model takes, found by trying some without computing anything."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fxfeat.detection.rehearsal import KINDS, rehearsing, run_rehearsed
from fxfeat.ir.recording import Kind
from fxfeat.pyramid import FeaturePyramid
from fxfeat.vision.reduction import Reduction, join_axes, split_axes

Size = tuple[int, int]

_STEPS = (2, 4, 8, 16, 32, 64, 128)
_PARTS = (3, 5, 6, 7, 8, 9, 12, 14)
_LARGEST_DIVISOR = 512
_COARSE = 64
_SLACK = 2
"""How many places a map may have more or less than its stride lets expect: models round up or down at each step."""
_HEIGHTS = (1.0, 1.61, 1.93, 1.13, 1.45, 1.22)
_WIDTHS = (1.27, 1.01, 1.38, 1.74, 1.12, 1.53)


@dataclass(frozen=True)
class Sizes:
    """Which image sizes a model takes.

    Attributes:
        divisor: height and width must be multiples of it; 1 where any will do, and a pair where they differ.
        fixed: the one height and width that it takes, in pixels; None where it takes others.
        least: the smallest height and width that it takes, as far as is known; 1 where it takes small images.
    """

    divisor: Reduction = 1
    fixed: tuple[int, int] | None = None
    least: int = 1


def find_sizes(body: FeaturePyramid, image: torch.Tensor, strides: Sequence[Reduction], flat: bool = False) -> Sizes:
    """Find out which image sizes a pyramid takes, by running it on tensors without data.

    Example:
        >>> from fxfeat import features_only
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.PixelUnshuffle(2))
        >>> image = torch.rand(1, 3, 32, 32)
        >>> find_sizes(features_only(model, example_inputs=image), image, (2, 4))
        Sizes(divisor=4, fixed=None, least=1)

    Args:
        body: returns a list of maps.
        image: one that it takes, of shape ``(N, C, H, W)``.
        strides: of its maps, in pixels.
        flat: whether its maps come from patches, and a patch that is cut off by the border is lost.

    Returns:
        The smallest divisor for which all sizes tried ran and gave maps of the sizes to be expected.
    """
    for kind in KINDS:
        with contextlib.suppress(Exception), rehearsing(body, kind):
            shapes = run_rehearsed(body, image, kind=kind).shapes
            trial = Trial(body, image, tuple(strides), tuple(shape[-2:] for shape in shapes), kind)
            return _try_sizes(trial, _list_divisors(strides, flat))
    return Sizes(fixed=(image.shape[-2], image.shape[-1]))


def _try_sizes(trial: Trial, divisors: list[int]) -> Sizes:
    divisor = next((divisor for divisor in divisors if _fits_all(trial, (divisor, divisor))), None)
    if divisor is None:
        return Sizes(fixed=(trial.image.shape[-2], trial.image.shape[-1]))
    if any(isinstance(stride, tuple) for stride in trial.strides):
        return _refine(trial, divisor, divisors)
    return Sizes(divisor, least=_find_least(trial, divisor))


def _refine(trial: Trial, divisor: int, divisors: list[int]) -> Sizes:
    """Find the smallest divisor of the height and then of the width, for a model with other strides down and across."""
    tall = next(smaller for smaller in divisors if _fits_all(trial, (smaller, divisor)))
    wide = next(smaller for smaller in divisors if _fits_all(trial, (tall, smaller)))
    return Sizes(join_axes((tall, wide)), least=_find_least(trial, math.lcm(tall, wide)))


@dataclass(frozen=True)
class Trial:
    """A pyramid that rehearses, an image that it takes, the grids of the maps at its size, and the kind of tensors."""

    body: FeaturePyramid
    image: torch.Tensor
    strides: tuple[Reduction, ...]
    grids: tuple[tuple[int, ...], ...]
    kind: Kind


def _find_least(trial: Trial, divisor: int) -> int:
    """Find the smallest image that a model takes, in steps of the last stride: windows may not fit on smaller ones."""
    step, own = math.lcm(divisor, *split_axes(trial.strides[-1])), min(trial.image.shape[-2:])
    for least in range(step, own, step):
        if _fits(trial, (least, least)):
            return least if least > step else 1
    return own


def _list_divisors(strides: Sequence[Reduction], flat: bool) -> list[int]:
    """List what a size may have to be a multiple of: powers of two, strides, and windows on the grids."""
    steps = [step for stride in strides for step in split_axes(stride)]
    windows = {step * part for step in steps for part in _PARTS}
    divisors = {1, *_STEPS, *windows, *steps}
    least = steps[-1] if flat else 1
    return sorted(divisor for divisor in divisors if divisor <= _LARGEST_DIVISOR and divisor % least == 0)


def _fits_all(trial: Trial, divisors: Size) -> bool:
    own = (trial.image.shape[-2], trial.image.shape[-1])
    return all(_fits(trial, size) for size in _list_multiples(own, divisors))


def _list_multiples(size: Size, divisors: Size) -> list[Size]:
    """List sizes from an image's to twice that which are multiples of numbers, but of few others, none twice."""
    sides = zip(size, divisors, (_HEIGHTS, _WIDTHS), strict=True)
    heights, widths = (_list_sides(pixels, divisor, growths) for pixels, divisor, growths in sides)
    # A model may take squares alone, as one does that reads a side off the root of a number of places.
    turned = ([*widths[turn:], *widths[:turn]] for turn in range(len(widths)))
    pairs = (list(zip(heights, each, strict=True)) for each in turned)
    return max(pairs, key=lambda pair: len({size for size in pair if size[0] != size[1]}))


def _list_sides(pixels: int, divisor: int, growths: tuple[float, ...]) -> list[int]:
    return [factor * divisor for factor in _spoil([math.ceil(pixels / divisor) * grow for grow in growths], divisor)]


def _spoil(factors: list[float], divisor: int) -> list[int]:
    """Raise factors until they differ and are no multiples of 2, 3, 5 or 7, while that makes no huge image."""
    spoilt: list[int] = []
    for factor in factors:
        whole = math.ceil(factor)
        while divisor < _COARSE and (whole in spoilt or math.gcd(whole, 210) > 1):
            whole += 1
        spoilt.append(whole)
    return spoilt


def _fits(trial: Trial, size: Size) -> bool:
    """Say whether a model runs on images of a size, and its maps grow and shrink as their strides say."""
    try:
        shapes = run_rehearsed(trial.body, trial.image, size, trial.kind).shapes
    except Exception:
        return False
    own = trial.image.shape[-2:]
    for shape, grid, stride in zip(shapes, trial.grids, trial.strides, strict=True):
        axes = zip(grid, size, own, split_axes(stride), strict=True)
        expected = [places + (now - then) / step for places, now, then, step in axes]
        if any(abs(places - wanted) > _SLACK for places, wanted in zip(shape[-2:], expected, strict=True)):
            return False
    return True
