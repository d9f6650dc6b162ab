"""A pyramid as transformers' models use a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxfeat.errors import RequestError
from fxfeat.vision.integers import read_ints

Maps = tuple[torch.Tensor, ...]


class BackboneOutput(dict[Any, Any]):
    """What a backbone returns: a dict, a tuple or an object with attributes, as the model that asks for it likes.

    >>> out = BackboneOutput(feature_maps=(1, 2))
    >>> out["feature_maps"], out[0], out.feature_maps, out.hidden_states, out.to_tuple()
    ((1, 2), (1, 2), (1, 2), None, ((1, 2),))
    """

    def __missing__(self, key: Any) -> Any:
        if isinstance(key, int):
            return self.to_tuple()[key]
        raise KeyError(key)

    def to_tuple(self) -> tuple[Any, ...]:
        """Return what there is, without names."""
        return tuple(self.values())

    @property
    def feature_maps(self) -> Maps:
        """The maps, in the order asked for."""
        maps: Maps = self["feature_maps"]
        return maps

    @property
    def hidden_states(self) -> tuple[torch.Tensor | None, ...] | None:
        """A map for each level of the model, None for those that the pyramid does not return; None if not asked for."""
        return self.get("hidden_states")

    @property
    def attentions(self) -> None:
        """None: attention is not looked at."""


@dataclass(frozen=True)
class HFBackboneConfig:
    """What a backbone's ``config`` tells: the stages there are and those that are returned."""

    stage_names: list[str]
    out_features: list[str]
    out_indices: list[int]
    hidden_sizes: list[int]
    reshape_hidden_states: bool
    output_hidden_states: bool = False
    output_attentions: bool = False
    return_dict: bool = True


class HFBackbone(nn.Module):
    """A pyramid with the attributes and the result of a transformers backbone.

    Stage ``i`` is level ``i`` of the pyramid, so ``stage_names[i]`` is the name of the level of index ``i``.

    Source: transformers' ``BackboneMixin`` and ``BackboneOutput``.
    """

    has_attentions = False

    def __init__(self, pyramid: Any, reshape_hidden_states: bool = True) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.reshape_hidden_states = reshape_hidden_states
        self._out_indices = tuple(pyramid.feature_info.out_indices)
        if not reshape_hidden_states:
            _check_tokens(pyramid)

    @property
    def stage_names(self) -> list[str]:
        """A name for each level of the model."""
        return [f"stage{index + 1}" for index in range(len(self.pyramid.feature_info))]

    @property
    def num_features(self) -> list[int]:
        """The number of channels of each level of the model."""
        return [level["num_chs"] for level in self.pyramid.feature_info]

    @property
    def out_feature_channels(self) -> dict[str, int]:
        """The number of channels of each level of the model, by name."""
        return dict(zip(self.stage_names, self.num_features, strict=True))

    @property
    def out_indices(self) -> list[int]:
        """The indices of the levels that are returned; may be set to others that the pyramid returns."""
        return list(self._out_indices)

    @out_indices.setter
    def out_indices(self, indices: Sequence[int]) -> None:
        count, there = len(self.stage_names), self.pyramid.feature_info.out_indices
        asked = read_ints(indices)
        wanted = tuple(index % count if -count <= index < count else index for index in asked or ())
        if not wanted or any(index not in there for index in wanted):
            raise RequestError(f"out_indices is {indices!r}; the pyramid returns levels {there}. Choose among these.")
        self._out_indices = wanted

    @property
    def out_features(self) -> list[str]:
        """The names of the levels that are returned; may be set to others that the pyramid returns."""
        return [self.stage_names[index] for index in self._out_indices]

    @out_features.setter
    def out_features(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in self.stage_names]
        if unknown:
            raise RequestError(f"There is no stage {unknown[0]!r}; there are {', '.join(self.stage_names)}.")
        self.out_indices = [self.stage_names.index(name) for name in names]

    @property
    def channels(self) -> list[int]:
        """The number of channels of each map that is returned."""
        return [self.num_features[index] for index in self._out_indices]

    @property
    def config(self) -> HFBackboneConfig:
        """What transformers' models read of a backbone's configuration."""
        return HFBackboneConfig(
            self.stage_names, self.out_features, self.out_indices, self.num_features, self.reshape_hidden_states
        )

    def forward_with_filtered_kwargs(self, *args: Any, **kwargs: Any) -> BackboneOutput | tuple[Any, ...]:
        """Call the backbone with those keyword arguments that it takes."""
        taken = ("pixel_values", "output_hidden_states", "return_dict")
        result: BackboneOutput | tuple[Any, ...] = self(*args, **{k: v for k, v in kwargs.items() if k in taken})
        return result

    def forward(
        self,
        pixel_values: torch.Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> BackboneOutput | tuple[Any, ...]:
        """Compute the maps of images of shape ``(N, C, H, W)``.

        Args:
            pixel_values: the images.
            output_hidden_states: return a map for each level of the model too, None for those the pyramid leaves out.
            output_attentions: refused if set.
            return_dict: False returns a tuple.
            **kwargs: settings of other backbones, which are ignored.

        Raises:
            RequestError: where attention is asked for.
        """
        if output_attentions:
            raise RequestError("output_attentions=True was asked for; a pyramid does not look at attention.")
        maps = self._compute(pixel_values)
        output = BackboneOutput(feature_maps=tuple(maps[index] for index in self._out_indices))
        if output_hidden_states:
            output["hidden_states"] = tuple(maps.get(index) for index in range(len(self.stage_names)))
        return output.to_tuple() if return_dict is False else output

    def _compute(self, pixel_values: torch.Tensor) -> dict[int, torch.Tensor]:
        if not self.reshape_hidden_states:
            return {int(key): value for key, value in self.pyramid.compute_values(pixel_values).items()}
        maps = self.pyramid(pixel_values)
        listed = maps.values() if isinstance(maps, dict) else maps
        return dict(zip(self.pyramid.feature_info.out_indices, listed, strict=True))


def _check_tokens(pyramid: Any) -> None:
    for index, layout in pyramid.layouts.items():
        if layout.order != "NLC":
            raise RequestError(
                f"reshape_hidden_states=False asks for tokens, and level {index} is a map {layout.order}. Leave it out."
            )
        if layout.prefix != 1:
            raise RequestError(
                "reshape_hidden_states=False is for models with one prefix token, which DPT and Depth Anything take "
                f"off, and level {index} has {layout.prefix}. Leave it out."
            )
