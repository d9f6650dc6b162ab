"""Where a model's classifiers sit, and other layers in their places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from fxfeat.backbone.classifier import Classifier
from fxfeat.backbone.layers import Layer, make_layer, outputs_of, read_layer
from fxfeat.backbone.replace import replace
from fxfeat.errors import RequestError
from fxfeat.vision.shapes import shape_of


@dataclass(frozen=True)
class Place:
    """Where a classifier sits: the module to take out, and the linear layer in it."""

    path: str
    layer_path: str
    layer: Layer


def read_places(root: nn.Module, classifiers: Sequence[Classifier]) -> tuple[Place, ...] | None:
    """Find the modules of classifiers; None where one has none of its own."""
    places = []
    for classifier in classifiers:
        path, layer_path = classifier.path, classifier.layer
        layer = None if layer_path is None else _read_layer(root.get_submodule(layer_path), classifier)
        if path is None or layer_path is None or layer is None:
            return None
        places.append(Place(path, layer_path, layer))
    return tuple(places)


def _read_layer(module: nn.Module, classifier: Classifier) -> Layer | None:
    """Read a classifier's layer; where it was removed, one as wide as what went into it."""
    if isinstance(module, nn.Identity):
        return Layer(nn.Linear, shape_of(classifier.source)[-1], (("bias", True),))
    return read_layer(module)


def reset(root: nn.Module, place: Place, num_classes: int) -> None:
    """Put a fresh layer with so many outputs in a place, or the identity for none."""
    if num_classes == 0:
        replace(root, place.path, nn.Identity())
        return
    removed = isinstance(root.get_submodule(place.path), nn.Identity)
    path = place.path if removed else place.layer_path
    replace(root, path, make_layer(place.layer, num_classes, next(root.parameters(), None)))


def count_outputs(root: nn.Module, place: Place) -> int:
    """Return how many scores the layer in a place makes."""
    module = root.get_submodule(place.path)
    is_layer = isinstance(module, (place.layer.kind, nn.Identity))
    return outputs_of(module if is_layer else root.get_submodule(place.layer_path))


def check_unpooled(shape: tuple[int, ...], channels: int, places: tuple[Place, ...]) -> None:
    """Check that a classifier can be applied to features that are not pooled.

    Args:
        shape: of the features.
        channels: their axis of channels.
        places: where the classifiers sit.

    Raises:
        RequestError: for a linear layer on a map with channels first, and the like.
    """
    last = channels == len(shape) - 1
    if len(places) != 1 or places[0].layer.is_convolution == last:
        raise RequestError(
            f"Without pooling the features have shape {shape}, which the classifier cannot take. Remove it as well: "
            "reset_classifier(0, '')."
        )
