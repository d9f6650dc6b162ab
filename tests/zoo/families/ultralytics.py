"""ultralytics: the detectors' model files, smallest scale."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from tests.zoo.entry import Build, Entry
from tests.zoo.inputs import image

# model file, side of the image
MODELS = (
    ("yolov3-tiny", 64),
    ("yolov5n", 64),
    ("yolov6n", 64),
    ("yolov8n", 64),
    ("yolov8n-cls", 64),
    ("yolov8n-obb", 64),
    ("yolov8n-p2", 64),
    ("yolov8n-pose", 64),
    ("yolov8n-seg", 64),
    ("yolov8n-ghost", 64),
    ("yolov9t", 64),
    ("yolov10n", 64),
    ("yolo11n", 64),
    ("yolo11n-cls", 64),
    ("yolo11n-seg", 64),
    ("yolo12n", 64),
    ("yolo26n", 64),
    ("yolo26n-seg", 64),
    ("yolo26n-depth", 64),
    ("yolo26n-sem", 64),
)


def entries() -> Iterator[Entry]:
    for name, side in MODELS:
        yield Entry(f"ultralytics.{name}", _builder(name), image(side))
    yield Entry("ultralytics.rtdetr-resnet50", _rtdetr, image())


def _builder(name: str) -> Build:
    return lambda: importlib.import_module("ultralytics").YOLO(f"{name}.yaml").model.float()


def _rtdetr():
    return importlib.import_module("ultralytics").RTDETR("rtdetr-resnet50.yaml").model.float()
