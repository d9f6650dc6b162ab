"""A model with timm's interface: features, head, intermediates."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fxfeat.backbone.arrange import arrange
from fxfeat.backbone.example_inputs import dtype_of, match_example
from fxfeat.backbone.head_places import Place, check_unpooled, count_outputs, reset
from fxfeat.backbone.ladder import Ladder, build_ladder, cut_ladder, finish, is_normed, read_maps, run_to
from fxfeat.backbone.split import Programs, Split, split_model
from fxfeat.backbone.strip import strip
from fxfeat.backbone.take_indices import take_indices
from fxfeat.errors import FxfeatError, RequestError
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

    Raises:
        TraceError: where the model cannot be run on the example.

    Source: the methods that timm's models have, with timm's names, arguments and meanings.
    """

    def __init__(self, model: nn.Module, *, example_inputs: Any = None) -> None:
        super().__init__()
        if isinstance(model, (nn.DataParallel, DistributedDataParallel)):
            model = model.module
        setup = read_setup(model, None, None, example_inputs)
        root = share(setup.model)
        setup.model = root
        self.training = root.training
        # One and the same tables, so that whatever is done to the backbone's modules is done to the model's.
        for table in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            self.__dict__[table] = root.__dict__[table]
        object.__setattr__(self, "_root", root)
        self._setup, self._dtype = setup, dtype_of(root)
        self._split: Split | FxfeatError
        self._programs: Programs | None = None
        self._ladder: Ladder | None = None
        self._pooled = True
        try:
            self._split, self._programs = split_model(setup)
        except RequestError as error:
            self._split = error

    # -- the model itself -------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; without its pooling, up to its features and through what is left of its classifier."""
        if self._pooled and not self._is_pruned():
            return self._root(*args, **kwargs)
        return self.forward_head(self.forward_features(*args, **kwargs))

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode of every module."""
        self._root.training = mode
        return super().train(mode)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or "_root" not in self.__dict__:
                raise
            return getattr(self.__dict__["_root"], name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_setup": dataclasses.replace(self._setup, _recordings={})}

    # -- the split --------------------------------------------------------------------------------------------------

    @property
    def split(self) -> Split:
        """Where the features end, in which words it was found, and where the classifiers sit."""
        if isinstance(self._split, FxfeatError):
            raise self._split
        return self._split

    @property
    def num_features(self) -> int:
        """The number of channels of the features, of all together where there are several."""
        ladder = self._ladder
        if ladder is not None and ladder.stub:
            return ladder.levels.layouts[ladder.last].channels
        split = self.split
        return sum(shape[axis] for shape, axis in zip(split.shapes, split.channels, strict=True))

    @property
    def num_classes(self) -> int:
        """The number of scores that the classifier makes; 0 without one."""
        return count_outputs(self._root, self._places()[0]) if self._has_classifier() else 0

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
        ladder = self._ladder
        if ladder is not None and ladder.stub:
            return finish(ladder, self._root, self._run_to(ladder, ladder.last, False, args, kwargs), ladder.last)
        features = tuple(self._code().features.run(self._root, *args, **kwargs).values())
        return features[0] if len(features) == 1 else features

    def forward_head(self, x: Any, pre_logits: bool = False) -> Any:
        """Run the model from its features on.

        Args:
            x: what ``forward_features`` returned.
            pre_logits: stop at the classifier's input. With several classifiers on the same features their inputs are
                joined as the model joins their scores; on different ones, they are laid side by side.

        Returns:
            The scores ``(B, classes)``, or the embedding ``(B, C)``.
        """
        if not self._pooled:
            return x if pre_logits or not self._has_classifier() else self.get_classifier()(x)
        code = self._code()
        features = x if isinstance(x, (tuple, list)) else (x,)
        if not pre_logits:
            return code.head.run(self._root, *features)["scores"]
        inputs = code.inputs.run(self._root, *features).values()
        if len(features) > 1:
            return torch.cat(tuple(inputs), dim=1)
        return code.after.run(self._root, *inputs)["scores"]

    # -- the classifier ---------------------------------------------------------------------------------------------

    def get_classifier(self) -> Any:
        """Return the classifier's module; a tuple where there are several; the identity where it was removed."""
        modules = tuple(self._held(place) for place in self._places())
        return modules[0] if len(modules) == 1 else modules

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by one with fresh weights.

        Args:
            num_classes: how many scores to make; 0 removes the classifier with its parameters.
            global_pool: None keeps the pooling, ``""`` removes it.

        Raises:
            RequestError: for another pooling, or for a linear layer on a map that is not pooled.
        """
        if global_pool not in (None, ""):
            raise RequestError(
                f"global_pool is {global_pool!r}; pass None to keep the model's own pooling or '' to remove it."
            )
        places = self._places()
        if self._is_headless():
            raise RequestError("The head was pruned; call reset_classifier before prune_intermediate_layers.")
        if global_pool == "" and num_classes > 0:
            check_unpooled(self.split.shapes[0], self.split.channels[0], places)
        for place in places:
            reset(self._root, place, num_classes)
        self._pooled = self._pooled and global_pool is None

    # -- the levels -------------------------------------------------------------------------------------------------

    @property
    def feature_info(self) -> FeatureInfo:
        """What is known of the levels: channels, reduction, module, and why each is one.

        Raises:
            FxfeatError: where the model has no levels.
        """
        return self._read_ladder().levels.info

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
    ) -> Any:
        """Run the model and return the maps of some levels beside its features.

        Args:
            x: the image ``(B, C, H, W)``.
            indices: the levels: an int for the last n, several of which negative ones count from the end, None for
                all. A hierarchical model's levels are the ends of its resolutions, a flat one's its blocks.
            return_prefix_tokens: return pairs of a map and its prefix tokens, where there are such tokens.
            norm: apply the final norm to the maps that it fits.
            stop_early: run no further than the last level asked for.
            output_fmt: ``NCHW``, ``NHWC`` or ``NLC``.
            intermediates_only: return the maps alone.
            output_dict: return a dict of ``image_intermediates``, ``image_intermediates_prefix`` and
                ``image_features``.

        Returns:
            The features, as from ``forward_features``, and a list of maps in the order in which the model makes them.

        Raises:
            FxfeatError: where there are no levels, or none of these indices or of this format.
        """
        ladder = self._read_ladder()
        wanted = check_format(output_fmt)
        taken, last = take_indices(ladder.last + 1, indices)
        end = last if stop_early or intermediates_only else ladder.last
        values = self._run_to(ladder, end, not intermediates_only, (x,), {})
        maps = read_maps(ladder, self._root, values, taken, norm, wanted, tuple(x.shape[2:]))
        features = None if intermediates_only else finish(ladder, self._root, values, end)
        return arrange(maps, features, return_prefix_tokens, output_dict)

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
        ladder = self._read_ladder()
        taken, last = take_indices(ladder.last + 1, indices)
        fits = self._programs is not None and (last == ladder.last or is_normed(ladder, last))
        self._match_example()
        use = cut_ladder(ladder, self._setup, last, prune_norm)
        if self._programs is not None and fits and not prune_head:
            use = use | self._programs.head_use
        else:
            self._pooled = False
        strip(self._root, use)
        return taken

    # -- inside -----------------------------------------------------------------------------------------------------

    def _read_ladder(self) -> Ladder:
        if self._ladder is None:
            names = () if isinstance(self._split, FxfeatError) else self._split.names
            features = names[0] if len(names) == 1 else None
            self._match_example()
            self._ladder = build_ladder(self._setup, features)
        return self._ladder

    def _run_to(self, ladder: Ladder, end: int, whole: bool, args: Any, kwargs: Any) -> dict[str, torch.Tensor]:
        self._match_example()
        return run_to(ladder, self._setup, self._root, end, whole, args, kwargs)

    def _match_example(self) -> None:
        self._dtype = match_example(self._setup, self._dtype)

    def _is_pruned(self) -> bool:
        return self._ladder is not None and self._ladder.stub

    def _has_classifier(self) -> bool:
        places = None if isinstance(self._split, FxfeatError) else self._split.places
        return bool(places) and not isinstance(self._held(self._places()[0]), nn.Identity)

    def _held(self, place: Place) -> nn.Module:
        return nn.Identity() if self._is_headless() else self._root.get_submodule(place.path)

    def _is_headless(self) -> bool:
        return self._is_pruned() and not self._pooled

    def _places(self) -> tuple[Place, ...]:
        split = self.split
        if split.places:
            return split.places
        which = "one held by no module of its own" if split.places is None else "none"
        raise RequestError(
            f"{type(self._root).__name__} has no classifier to get or replace: fxfeat looked for the last linear layer "
            f"on every path to the scores and found {which} ({split.why})."
        )

    def _code(self) -> Programs:
        if self._programs is None:
            raise self.split if isinstance(self.split, FxfeatError) else AssertionError
        return self._programs
