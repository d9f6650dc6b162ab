"""Turn any ``nn.Module`` into a feature extractor."""

import fxfeat.report  # noqa: F401  so that what is returned can be shown
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
