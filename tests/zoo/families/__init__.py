"""Model families as data."""

from __future__ import annotations

from collections.abc import Iterator

from tests.zoo.entry import Entry
from tests.zoo.families import monai, pytorchcv, smp, timm, torchvision, transformers, ultralytics

FAMILIES = (torchvision, timm, transformers, smp, monai, ultralytics, pytorchcv)


def entries() -> Iterator[Entry]:
    for family in FAMILIES:
        yield from family.entries()
