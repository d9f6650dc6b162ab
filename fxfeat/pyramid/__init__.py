"""Feature maps at every resolution of a model."""

from fxfeat.pyramid.feature_info import FeatureInfo
from fxfeat.pyramid.features_only import features_only
from fxfeat.pyramid.pyramid import FeaturePyramid

__all__ = ["FeatureInfo", "FeaturePyramid", "features_only"]
