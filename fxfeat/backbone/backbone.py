"""A model with timm's interface: features, head, intermediates."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fxfeat.backbone.layers import make_layer, outputs_of
from fxfeat.backbone.share import replace, share
from fxfeat.backbone.split import Place, Programs, Split, split_model
from fxfeat.errors import FxfeatError, RequestError
from fxfeat.modes import read_setup


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
        self._setup = setup
        self._split: Split | FxfeatError
        self._programs: Programs | None = None
        self._pooled = True
        try:
            self._split, self._programs = split_model(setup)
        except RequestError as error:
            self._split = error

    # -- the model itself -------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; without its pooling, up to its features and through what is left of its classifier."""
        if self._pooled:
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
        """The number of channels of the features."""
        return self.split.shape[self.split.channels]

    @property
    def num_classes(self) -> int:
        """The number of scores that the classifier makes; 0 without one."""
        return outputs_of(self._root.get_submodule(self._places()[0].layer_path)) if self._has_classifier() else 0

    def forward_features(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run the model up to its last value with positions, final norm included, pooling not.

        Args:
            *args: the model's own arguments.
            **kwargs: the same.

        Returns:
            A map ``(B, C, H, W)`` or ``(B, H, W, C)``, or tokens ``(B, N, C)``, as the model has it.

        Raises:
            FxfeatError: where the model has no head to leave out.
        """
        split = self.split
        found: torch.Tensor = self._code().features.run(self._root, *args, **kwargs)[split.name]
        return found

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Run the model from its features on.

        Args:
            x: what ``forward_features`` returned.
            pre_logits: stop at the classifier's input. With several classifiers their inputs are joined as the model
                joins their scores.

        Returns:
            The scores ``(B, classes)``, or the embedding ``(B, C)``.
        """
        if not self._pooled:
            return x if pre_logits or not self._has_classifier() else self.get_classifier()(x)
        code = self._code()
        if not pre_logits:
            scores: torch.Tensor = code.head.run(self._root, x)["scores"]
            return scores
        inputs = code.inputs.run(self._root, x)
        joined: torch.Tensor = code.after.run(self._root, *inputs.values())["scores"]
        return joined

    # -- the classifier ---------------------------------------------------------------------------------------------

    def get_classifier(self) -> Any:
        """Return the classifier's module; a tuple where there are several; the identity where it was removed."""
        modules = tuple(self._root.get_submodule(held.path) for held in self._places())
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
        if global_pool == "" and num_classes > 0:
            self._check_unpooled(places)
        for place in places:
            self._reset(place, num_classes)
        self._pooled = self._pooled and global_pool is None

    def _check_unpooled(self, places: tuple[Place, ...]) -> None:
        last = self.split.channels == len(self.split.shape) - 1
        if len(places) != 1 or (places[0].layer.is_convolution if last else not places[0].layer.is_convolution):
            raise RequestError(
                f"Without pooling the features have shape {tuple(self.split.shape)}, which the classifier cannot take. "
                "Remove it as well: reset_classifier(0, '')."
            )

    def _reset(self, place: Place, num_classes: int) -> None:
        like = next(self._root.parameters(), None)
        held = self._root.get_submodule(place.path)
        if num_classes == 0:
            replace(self._root, place.path, nn.Identity())
            return
        path = place.path if isinstance(held, nn.Identity) else place.layer_path
        replace(self._root, path, make_layer(place.layer, num_classes, like))

    def _has_classifier(self) -> bool:
        split = self.split
        return bool(split.places) and not isinstance(self._root.get_submodule(self._places()[0].path), nn.Identity)

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
