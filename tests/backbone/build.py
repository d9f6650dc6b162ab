"""Tiny models and their backbones, made once for each class: a test gets copies, which share tensors as they did."""

from __future__ import annotations

import copy
import functools

import torch
from torch import nn

from fxfeat import Backbone
from tests.backbone.models import IMAGE


def build(cls: type[nn.Module]) -> tuple[nn.Module, Backbone]:
    return copy.deepcopy(_build(cls))


@functools.cache
def _build(cls: type[nn.Module]) -> tuple[nn.Module, Backbone]:
    torch.manual_seed(0)
    model = cls().eval()
    return model, Backbone(model, example_inputs=IMAGE)
