"""A model cut down to its feature maps."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from fxfeat.codegen.extractor import FeatureExtractor
from fxfeat.pyramid.feature_info import FeatureInfo
from fxfeat.pyramid.formats import to_format
from fxfeat.pyramid.hf_backbone import HFBackbone
from fxfeat.vision.layout import Layout, Order


class FeaturePyramid(nn.Module):
    """A module that returns a model's feature maps, as ``features_only`` makes it.

    Attributes:
        feature_info: what is known of the levels.
        extractor: the extractor that computes the values, in the layouts that the model works in.
        output_fmt: the format of the maps.
        return_dict: whether the maps are returned as a dict, by the levels' indices as strings.
        normed_by: the path of the norm that is applied to each map; None for none.

    Its parameters and their names in ``state_dict()`` are the model's own.

    Source: timm's ``FeatureListNet`` and ``FeatureDictNet``.
    """

    extractor: FeatureExtractor
    feature_info: FeatureInfo
    layouts: dict[int, Layout]
    image: tuple[int, str, tuple[Any, ...]]
    output_fmt: Order
    return_dict: bool
    normed_by: str | None

    def __init__(
        self,
        extractor: FeatureExtractor,
        feature_info: FeatureInfo,
        layouts: dict[int, Layout],
        image: tuple[int, str, tuple[Any, ...]],
        output_fmt: Order = "NCHW",
        return_dict: bool = False,
        normed_by: str | None = None,
    ) -> None:
        super().__init__()
        # Shared with the extractor, not copied: so parameters have the names that they have in the model, without
        # "extractor." before them, and whatever moves or replaces them here does so there.
        for shared in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            self.__dict__[shared] = extractor.__dict__[shared]
        self.__dict__["extractor"] = extractor
        self.feature_info = feature_info
        self.layouts = layouts
        self.image = image
        self.output_fmt = output_fmt
        self.return_dict = return_dict
        self.normed_by = normed_by
        self.training = extractor.training

    @property
    def channels(self) -> list[int]:
        """The number of channels of each map that is returned."""
        channels: list[int] = self.feature_info.channels()
        return channels

    def as_hf_backbone(self, reshape_hidden_states: bool = True) -> HFBackbone:
        """Return the pyramid as transformers' models use a backbone: its forward returns ``.feature_maps``.

        Args:
            reshape_hidden_states: return maps; False returns tokens with one prefix token, as DPT and Depth Anything
                take them.

        Raises:
            RequestError: where tokens are wanted and a level is none, or has another number of prefix tokens.
        """
        return HFBackbone(self, reshape_hidden_states)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the maps.

        Args:
            args: what the model takes.
            kwargs: what the model takes by name.

        Returns:
            A list of maps in the order of ``feature_info.out_indices``, or a dict of them.
        """
        values = self.compute_values(*args, **kwargs)
        size = self._size_of_image(args, kwargs)
        maps = [
            to_format(values[str(index)], self.layouts[index], size, self.output_fmt)
            for index in self.feature_info.out_indices
        ]
        if not self.return_dict:
            return maps
        return OrderedDict(zip(map(str, self.feature_info.out_indices), maps, strict=True))

    def compute_values(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Compute the levels in the layouts that the model works in, by their indices as strings."""
        values: dict[str, torch.Tensor] = self.extractor(*args, **kwargs)
        if self.normed_by is None:
            return values
        norm = self.get_submodule(self.normed_by)
        return {key: norm(value) for key, value in values.items()}

    def _size_of_image(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, ...]:
        position, name, keys = self.image
        image = kwargs[name] if name in kwargs else args[position]
        for key in () if isinstance(image, torch.Tensor) else keys:
            image = image[key]
        # A signal may come without channels.
        rank = len(next(iter(self.layouts.values())).grid)
        return tuple(image.shape[-rank:])

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load a checkpoint of the pyramid, or of the whole model."""
        return self.extractor.load_state_dict(state_dict, strict, assign)

    def _load_from_state_dict(self, *loading: Any) -> None:
        # Inside another module, where torch asks for what stands at this prefix alone.
        self.extractor._load_from_state_dict(*loading)

    def train(self, mode: bool = True) -> FeaturePyramid:
        """Set the mode of every module, as the model's own ``train`` does."""
        self.extractor.train(mode)
        self.training = mode
        return self

    def eval(self) -> FeaturePyramid:
        """Set the mode of every module, as the model's own ``eval`` does."""
        self.extractor.eval()
        self.training = False
        return self

    def extra_repr(self) -> str:
        """Say what is returned."""
        info = self.feature_info
        return f"out_indices={info.out_indices}, channels={info.channels()}, reduction={info.reduction()}"
