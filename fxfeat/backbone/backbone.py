"""A model with timm's interface: features, head, intermediates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fxfeat.backbone.arrange import arrange
from fxfeat.backbone.checkpointing import switch_checkpointing
from fxfeat.backbone.head_places import count_outputs
from fxfeat.backbone.ladder import finish, read_maps
from fxfeat.backbone.masks import take_mask
from fxfeat.backbone.parts import (
    classifiers_of,
    count_features,
    count_hidden,
    cut,
    has_classifier,
    ladder_of,
    list_places,
    read_parts,
    run_features,
    run_head,
    run_levels,
    split_of,
)
from fxfeat.backbone.reset import reset_head
from fxfeat.backbone.split import Split
from fxfeat.backbone.take_indices import take_indices
from fxfeat.errors import RequestError
from fxfeat.ir.engine import Engine
from fxfeat.isolation.shared_copy import share
from fxfeat.pyramid.feature_info import FeatureInfo
from fxfeat.pyramid.formats import check_format
from fxfeat.trace.setup import read_setup


class Backbone(nn.Module):
    """A model that can also be run in parts: up to its features, from them to its scores, up to inner levels.

    Example:
        >>> import fxfeat
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> backbone = fxfeat.Backbone(model)
        >>> image = torch.rand(2, 3, 16, 16)
        >>> backbone.forward_features(image).shape
        torch.Size([2, 8, 14, 14])
        >>> backbone.reset_classifier(0)
        >>> backbone(image).shape
        torch.Size([2, 8])

    Args:
        model: any module; it is not changed. The backbone has modules of its own, and shares the model's tensors.
        example_inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments; worked out from the
            model if not given.
        engine: as for ``create_feature_extractor``; what comes behind the features is always code.

    Raises:
        TraceError: where the model cannot be run on the example.

    Source: the methods that timm's models have, with timm's names, arguments and meanings.
    """

    def __init__(self, model: nn.Module, *, example_inputs: Any = None, engine: Engine = "auto") -> None:
        super().__init__()
        if isinstance(model, (nn.DataParallel, DistributedDataParallel)):
            model = model.module
        setup = read_setup(model, None, None, example_inputs, engine)
        setup.model = root = share(setup.model)
        self.training = root.training
        # One and the same tables, so that whatever is done to the backbone's modules is done to the model's.
        for table in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            self.__dict__[table] = root.__dict__[table]
        self._parts = read_parts(setup)

    # -- the model itself -------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; without its pooling, up to its features and through what is left of its classifier."""
        if self._parts.is_as_it_was:
            return self._parts.root(*args, **kwargs)
        return self.forward_head(self.forward_features(*args, **kwargs))

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode of every module, as the model's own ``train`` does."""
        self._parts.root.train(mode)
        self.training = self._parts.root.training
        return self

    def eval(self) -> Backbone:
        """Set the mode of every module, as the model's own ``eval`` does."""
        self._parts.root.eval()
        self.training = self._parts.root.training
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or "_parts" not in self.__dict__:
                raise
            return getattr(self.__dict__["_parts"].root, name)

    # -- the split --------------------------------------------------------------------------------------------------

    @property
    def split(self) -> Split:
        """Where the features end, in which words it was found, and where the classifiers sit."""
        return split_of(self._parts)

    @property
    def num_features(self) -> int:
        """The number of channels of the features, of all together where there are several."""
        return count_features(self._parts)

    @property
    def head_hidden_size(self) -> int:
        """The width of what goes into the classifier: of ``forward_head(x, pre_logits=True)``."""
        return count_hidden(self._parts)

    @property
    def num_classes(self) -> int:
        """The number of scores that the classifier makes; 0 without one."""
        parts = self._parts
        return count_outputs(parts.root, list_places(parts)[0]) if has_classifier(parts) else 0

    def forward_features(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model up to its last value with positions, final norm included, pooling not.

        Args:
            *args: the model's own arguments.
            **kwargs: the same.

        Returns:
            A map ``(B, C, H, W)`` or ``(B, H, W, C)``, or tokens ``(B, N, C)``, as the model has it; a tuple of them
            where classifiers of one model look at different ones.

        Raises:
            FxfeatError: where the model has no head to leave out.
        """
        return run_features(self._parts, args, kwargs)

    def forward_head(self, x: Any, pre_logits: bool = False) -> Any:
        """Run the model from its features on.

        Args:
            x: what ``forward_features`` returned.
            pre_logits: stop at the classifier's input. With several classifiers on the same features their inputs are
                joined as the model joins their scores; on different ones, they are laid side by side.

        Returns:
            The scores ``(B, classes)``, or the embedding ``(B, C)``.
        """
        return run_head(self._parts, x, pre_logits)

    # -- the classifier ---------------------------------------------------------------------------------------------

    def get_classifier(self) -> Any:
        """Return the classifier's module; a tuple where there are several; the identity where it was removed."""
        modules = classifiers_of(self._parts)
        return modules[0] if len(modules) == 1 else modules

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by one with fresh weights.

        Args:
            num_classes: how many scores to make; 0 removes the classifier with its parameters. Where a model has none,
                one is put behind it.
            global_pool: None keeps the pooling, ``""`` removes it; ``"avg"``, ``"max"``, ``"avgmax"``, ``"catavgmax"``
                (both side by side) and ``"token"`` (the class token) pool in its place.

        Raises:
            RequestError: for a pooling that does not fit the model, or a linear layer on a map that is not pooled.
        """
        reset_head(self._parts, num_classes, global_pool)

    # -- the levels -------------------------------------------------------------------------------------------------

    @property
    def feature_info(self) -> FeatureInfo:
        """What is known of the levels: channels, reduction, module, and why each is one.

        Raises:
            FxfeatError: where the model has no levels.
        """
        return ladder_of(self._parts).levels.info

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
        attn_mask: torch.Tensor | None = None,
        is_causal: bool = False,
    ) -> Any:
        """Run the model and return the maps of some levels beside its features.

        Args:
            x: the image ``(B, C, H, W)``.
            indices: the levels: an int for the last n, several of which negative ones count from the end, None for
                all. A hierarchical model's levels are the ends of its resolutions, a flat one's its blocks.
            return_prefix_tokens: return pairs of a map and its prefix tokens, where there are such tokens.
            norm: apply the final norm to each map: any block of a flat model, or the last level of others. A model that
                has no final norm leaves them as they are.
            stop_early: run no further than the last level asked for.
            output_fmt: ``NCHW``, ``NHWC`` or ``NLC``.
            intermediates_only: return the maps alone.
            output_dict: return a dict of ``image_intermediates``, ``image_intermediates_prefix`` and
                ``image_features``.
            attn_mask: passed on to a model that takes it.
            is_causal: the same.

        Returns:
            The features, as from ``forward_features``, and a list of maps in the order in which the model makes them.

        Raises:
            FxfeatError: where there are no levels, or none of these indices or of this format; for a norm that does not
                fit, and a mask that the model does not take.
        """
        given = take_mask(self._parts.root, attn_mask, is_causal)
        ladder, root = ladder_of(self._parts), self._parts.root
        wanted = check_format(output_fmt)
        taken, last = take_indices(ladder.last + 1, indices)
        end = last if stop_early or intermediates_only else ladder.last
        values = run_levels(self._parts, end, not intermediates_only, (x,), given)
        size = tuple(x.shape[-len(ladder.levels.layouts[0].grid) :])
        maps = read_maps(ladder, root, values, taken, norm, wanted, size)
        features = None if intermediates_only else finish(ladder, root, values, end)
        return arrange(maps, features, return_prefix_tokens, output_dict)

    def get_intermediate_layers(
        self,
        x: torch.Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        attn_mask: torch.Tensor | None = None,
    ) -> list[Any]:
        """Return the values of some levels, as DINO and timm have it.

        Args:
            x: the image ``(B, C, H, W)``.
            n: the levels: an int for the last n, or indices.
            reshape: return maps ``(B, C, H, W)`` in place of tokens ``(B, N, C)``.
            return_prefix_tokens: return pairs of these and the prefix tokens, where there are such tokens.
            norm: apply the final norm.
            attn_mask: passed on to a model that takes it.

        Raises:
            FxfeatError: as for ``forward_intermediates``.
        """
        layers: list[Any] = self.forward_intermediates(
            x,
            n,
            return_prefix_tokens=return_prefix_tokens,
            norm=norm,
            output_fmt="NCHW" if reshape else "NLC",
            intermediates_only=True,
            attn_mask=attn_mask,
        )
        return layers

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what comes after the last of some levels, with its parameters.

        Args:
            indices: the levels to keep, as for ``forward_intermediates``.
            prune_norm: remove the final norm as well.
            prune_head: remove the head. It also goes where it does not fit the features that are left.

        Returns:
            The indices that were kept.

        Raises:
            FxfeatError: where there are no levels, or none of these indices.
        """
        return cut(self._parts, indices, prune_norm, prune_head)

    # -- what changes the model's own code ----------------------------------------------------------------------------

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Switch gradient checkpointing on or off, as the model has it; features and intermediates follow.

        Raises:
            RequestError: where the model has no ``set_grad_checkpointing``.
        """
        switch_checkpointing(self._parts, "set_grad_checkpointing", enable)

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Switch gradient checkpointing on where the model has transformers' method of this name."""
        switch_checkpointing(self._parts, "gradient_checkpointing_enable", *args, **kwargs)

    def gradient_checkpointing_disable(self) -> None:
        """Switch gradient checkpointing off where the model has transformers' method of this name."""
        switch_checkpointing(self._parts, "gradient_checkpointing_disable")

    def set_input_size(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: the size is part of what was recorded.

        Raises:
            RequestError: always.
        """
        raise RequestError(
            "set_input_size changes the model, and a Backbone was made of the model as it was. Call it on the model, "
            "then make Backbone(model) again."
        )
