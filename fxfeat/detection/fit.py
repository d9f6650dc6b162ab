"""Bring images to sizes that a model takes, and its maps to the sizes that the images let expect."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from fxfeat.vision.reduction import Reduction, split_axes

Size = tuple[int, int]


def pad(image: torch.Tensor, divisor: Reduction, least: int = 1) -> torch.Tensor:
    """Add zeros at the bottom and on the right until height and width are multiples of numbers, and not too small.

    Example:
        >>> pad(torch.ones(1, 3, 333, 512), 32).shape
        torch.Size([1, 3, 352, 512])
        >>> pad(torch.ones(1, 3, 100, 512), 32, least=224).shape
        torch.Size([1, 3, 224, 512])
    """
    height, width = image.shape[-2:]
    pairs = zip((height, width), split_axes(divisor), strict=True)
    wanted = [math.ceil(max(pixels, least) / factor) * factor for pixels, factor in pairs]
    missing = wanted[0] - height, wanted[1] - width
    return F.pad(image, (0, missing[1], 0, missing[0])) if any(missing) else image


def resize(value: torch.Tensor, size: Size) -> torch.Tensor:
    """Resample an image or a map to a height and width, with smoothing where it gets smaller; as it is if it fits.

    Example:
        >>> resize(torch.ones(1, 3, 333, 517), (224, 224)).shape
        torch.Size([1, 3, 224, 224])
    """
    if tuple(value.shape[-2:]) == size:
        return value
    return F.interpolate(value, size, mode="bilinear", align_corners=False, antialias=True)


def crop(level: torch.Tensor, size: Size) -> torch.Tensor:
    """Cut a map down to a height and width.

    Example:
        >>> crop(torch.ones(1, 8, 11, 16), (11, 15)).shape
        torch.Size([1, 8, 11, 15])
    """
    return level[..., : size[0], : size[1]]


def widen(level: torch.Tensor, size: Size) -> torch.Tensor:
    """Add zeros around a map that convolutions without padding have made too small for its stride, all sides alike.

    A map that is too small by one place, since models round down, is left as it is.

    Args:
        level: of shape ``(N, C, H, W)``.
        size: the height and width that the image's size and the stride let expect, rounded up.

    Example:
        >>> widen(torch.ones(1, 1, 35, 35), (38, 38)).shape, widen(torch.ones(1, 1, 37, 37), (38, 38)).shape
        (torch.Size([1, 1, 38, 38]), torch.Size([1, 1, 37, 37]))
    """
    missing = [wanted - own for wanted, own in zip(size, level.shape[-2:], strict=True)]
    if max(missing) < 2:
        return level
    top, left = (max(0, count) // 2 for count in missing)
    return F.pad(level, (left, max(0, missing[1]) - left, top, max(0, missing[0]) - top))


def count_places(size: Size, stride: Reduction) -> Size:
    """Count the places of a map over an image, those cut off by the border included.

    Example:
        >>> count_places((333, 517), 32), count_places((333, 517), (32, 8))
        ((11, 17), (11, 65))
    """
    down, right = split_axes(stride)
    return math.ceil(size[0] / down), math.ceil(size[1] / right)
