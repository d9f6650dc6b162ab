"""torchvision: every name that it lists. Detectors through their backbones, quantizable models before quantization."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from tests.zoo.entry import Build, Entry, Make
from tests.zoo.inputs import floats, image, named

DETECTORS = ("fasterrcnn", "fcos", "keypointrcnn", "maskrcnn", "retinanet", "ssd300", "ssdlite320")
SEGMENTERS = ("deeplabv3", "fcn", "lraspp")

# beginning of the name: input; the first that fits counts
INPUTS: tuple[tuple[str, Make], ...] = (
    ("alexnet", image(96)),
    ("inception_v3", image(299)),
    ("quantized_inception_v3", image(299)),
    ("maxvit", image(224)),
    ("mvit", floats(1, 3, 16, 224, 224)),
    ("s3d", floats(2, 3, 16, 224, 224)),
    ("swin3d", floats(2, 3, 4, 64, 64)),
    ("r3d", floats(2, 3, 8, 64, 64)),
    ("mc3", floats(2, 3, 8, 64, 64)),
    ("r2plus1d", floats(2, 3, 8, 64, 64)),
    ("raft", named(image1=image(128), image2=image(128))),
    ("ssd300", image(300)),
    ("vit_h_14", image(56)),
    ("", image(64)),
)

# beginning of the name: keyword arguments
OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("googlenet", {"init_weights": False}),
    ("inception_v3", {"init_weights": False}),
    ("quantized_", {"quantize": False}),
    ("vit_h_14", {"image_size": 56}),
    ("vit_", {"image_size": 64}),
    *((name, {"weights_backbone": None}) for name in (*DETECTORS, *SEGMENTERS)),
)


def entries() -> Iterator[Entry]:
    from torchvision.models import list_models

    for name in list_models():
        inputs = next(inputs for start, inputs in INPUTS if name.startswith(start))
        options = next((options for start, options in OPTIONS if name.startswith(start)), {})
        part = "backbone" if name.startswith(DETECTORS) else ""
        yield Entry(f"torchvision.{name}" + (f".{part}" if part else ""), _builder(name, part, options), inputs)


def _builder(name: str, part: str, options: dict[str, Any]) -> Build:
    def build() -> nn.Module:
        from torchvision.models import get_model

        return get_model(name, weights=None, **options).get_submodule(part)

    return build
