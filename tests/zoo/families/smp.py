"""segmentation-models-pytorch: every architecture on one encoder, and one architecture on other encoders."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from tests.zoo.entry import Build, Entry
from tests.zoo.inputs import image

# architecture, encoder, side of the image
MODELS = (
    ("Unet", "resnet18", 64),
    ("UnetPlusPlus", "resnet18", 64),
    ("MAnet", "resnet18", 64),
    ("Linknet", "resnet18", 64),
    ("FPN", "resnet18", 64),
    ("PSPNet", "resnet18", 64),
    ("DeepLabV3", "resnet18", 64),
    ("DeepLabV3Plus", "resnet18", 64),
    ("PAN", "resnet18", 128),
    ("UPerNet", "resnet18", 64),
    ("Segformer", "resnet18", 64),
    ("DPT", "tu-vit_tiny_patch16_224", 224),
    ("Unet", "mit_b0", 64),
    ("Unet", "mobilenet_v2", 64),
    ("Unet", "efficientnet-b0", 64),
    ("Unet", "timm-regnetx_002", 64),
    ("Unet", "vgg11", 64),
    ("Unet", "densenet121", 64),
    ("Unet", "dpn68", 64),
    ("Unet", "xception", 64),
    ("Unet", "mobileone_s0", 64),
    ("Unet", "tu-convnext_atto", 64),
)


def entries() -> Iterator[Entry]:
    for name, encoder, side in MODELS:
        yield Entry(f"smp.{name}.{encoder}", _builder(name, encoder), image(side))


def _builder(name: str, encoder: str) -> Build:
    return lambda: getattr(importlib.import_module("segmentation_models_pytorch"), name)(encoder, encoder_weights=None)
