"""Turn any ``nn.Module`` into a feature extractor."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from fxfeat.ir.shown import show_by

if TYPE_CHECKING:
    from fxfeat.api import create_feature_extractor, get_graph_node_names
    from fxfeat.backbone import Backbone
    from fxfeat.codegen.extractor import FeatureExtractor
    from fxfeat.detection import FPNBackbone, fpn_backbone
    from fxfeat.eager.verify import Verification, verify
    from fxfeat.errors import FxfeatError, GuardError, NodeNotFoundError, RequestError, TraceError
    from fxfeat.pyramid import FeatureInfo, FeaturePyramid, features_only

__all__ = [
    "Backbone",
    "FPNBackbone",
    "FeatureExtractor",
    "FeatureInfo",
    "FeaturePyramid",
    "FxfeatError",
    "GuardError",
    "NodeNotFoundError",
    "RequestError",
    "TraceError",
    "Verification",
    "create_feature_extractor",
    "features_only",
    "fpn_backbone",
    "get_graph_node_names",
    "verify",
]

# Each is imported when it is first asked for: the help of the command needs no torch, and few need everything.
_MODULES = {
    "Backbone": "fxfeat.backbone",
    "FPNBackbone": "fxfeat.detection",
    "FeatureExtractor": "fxfeat.codegen.extractor",
    "FeatureInfo": "fxfeat.pyramid",
    "FeaturePyramid": "fxfeat.pyramid",
    "FxfeatError": "fxfeat.errors",
    "GuardError": "fxfeat.errors",
    "NodeNotFoundError": "fxfeat.errors",
    "RequestError": "fxfeat.errors",
    "TraceError": "fxfeat.errors",
    "Verification": "fxfeat.eager.verify",
    "create_feature_extractor": "fxfeat.api",
    "features_only": "fxfeat.pyramid",
    "fpn_backbone": "fxfeat.detection",
    "get_graph_node_names": "fxfeat.api",
    "verify": "fxfeat.eager.verify",
}


def _load(name: str) -> Any:
    if name in _MODULES:
        value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
        return value
    if not name.startswith("_") and importlib.util.find_spec(f"fxfeat.{name}") is not None:
        return importlib.import_module(f"fxfeat.{name}")
    raise AttributeError(f"module 'fxfeat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if not TYPE_CHECKING:
    # Type checkers would take any name for one that is there.
    __getattr__ = _load

show_by(lambda: importlib.import_module("fxfeat.report"))
