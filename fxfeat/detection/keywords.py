"""What detectors take by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection
from typing import Any

from torch import nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from fxfeat.errors import RequestError
from fxfeat.vision.integers import read_int

_TORCHVISIONS = {
    "trainable_layers": "trainable_levels",
    "trainable_backbone_layers": "trainable_levels",
    "returned_layers": "out_indices",
}


def check_keywords(detector: type[nn.Module], given: Collection[str], for_backbone: Collection[str]) -> None:
    """Check that a detector or its backbone knows each keyword argument.

    >>> from torchvision.models.detection import FCOS
    >>> check_keywords(FCOS, {"min_size": 320}, {"trainable_levels"})

    Args:
        detector: torchvision's class.
        given: the names.
        for_backbone: those that the backbone takes.

    Raises:
        RequestError: where one is unknown.
    """
    taken = {*for_backbone, *_list_taken(detector)}
    unknown = next((name for name in given if name not in taken), None)
    if unknown is None:
        return
    choices = sorted(taken | {"anchor_sizes", "aspect_ratios"} - {unknown})
    near = [_TORCHVISIONS[unknown]] if unknown in _TORCHVISIONS else difflib.get_close_matches(unknown, choices)
    hint = f" Did you mean {near[0]!r}?" if near else " help(torchvision.models.detection) lists the detectors' own."
    raise RequestError(f"{detector.__name__} has no argument {unknown!r}, nor has its backbone.{hint}")


def _list_taken(detector: type[nn.Module]) -> set[str]:
    """List what a detector's class takes, what it hands on to its bases, and to what resizes and pads images."""
    makers = [vars(cls)["__init__"] for cls in detector.__mro__ if cls.__module__.startswith("torchvision.")]
    names = {name for maker in (*makers, GeneralizedRCNNTransform.__init__) for name in _names_of(maker)}
    return names - {"self", "backbone", "num_classes", "rpn", "roi_heads", "transform"}


def _names_of(maker: Any) -> list[str]:
    parameters = inspect.signature(maker).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]


def check_classes(num_classes: Any) -> None:
    """Check a number of classes; None goes with a predictor of the user's own.

    Raises:
        RequestError: where it is no positive int.
    """
    count = read_int(num_classes)
    if num_classes is None or (count is not None and count > 0):
        return
    raise RequestError(f"num_classes is {num_classes!r}; it must be a positive int, the background included.")
