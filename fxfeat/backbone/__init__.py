"""Run any model in parts: timm's interface, found in the recorded graph."""

from fxfeat.backbone.backbone import Backbone

__all__ = ["Backbone"]
