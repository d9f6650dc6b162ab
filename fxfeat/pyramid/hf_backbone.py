"""A pyramid as transformers' models use a backbone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class BackboneOutput(dict[str, Any]):
    """What a backbone returns: a dict, which some models ask for, with the maps as an attribute, which others do."""

    @property
    def feature_maps(self) -> tuple[torch.Tensor, ...]:
        """The maps, in the order asked for."""
        maps: tuple[torch.Tensor, ...] = self["feature_maps"]
        return maps


class HFBackbone(nn.Module):
    """A pyramid with the attributes and the result of a transformers backbone.

    Source: transformers' ``BackboneMixin`` and ``BackboneOutput``.
    """

    def __init__(self, pyramid: Any) -> None:
        super().__init__()
        self.pyramid = pyramid

    @property
    def channels(self) -> list[int]:
        """The number of channels of each map that is returned."""
        return self.pyramid.channels

    @property
    def stage_names(self) -> list[str]:
        """A name for each level of the model, after one for its input."""
        return ["stem", *(f"stage{index + 1}" for index in range(len(self.pyramid.feature_info)))]

    @property
    def out_features(self) -> list[str]:
        """The names of the levels that are returned."""
        return [f"stage{index + 1}" for index in self.out_indices]

    @property
    def out_indices(self) -> list[int]:
        """The indices of the levels that are returned."""
        return list(self.pyramid.feature_info.out_indices)

    def forward(self, pixel_values: torch.Tensor, *args: Any, **kwargs: Any) -> BackboneOutput:
        """Compute the maps of images of shape ``(N, C, H, W)``; settings for other outputs are ignored."""
        maps = self.pyramid(pixel_values)
        return BackboneOutput(feature_maps=tuple(maps.values() if isinstance(maps, dict) else maps))
