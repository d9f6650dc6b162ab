"""The parts of a model: what leads to its features, its head, its levels, and what was cut off."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxfeat.backbone.example_inputs import dtype_of, match_example
from fxfeat.backbone.head_places import Place
from fxfeat.backbone.ladder import Ladder, build_ladder, cut_ladder, finish, is_normed, run_to
from fxfeat.backbone.split import Programs, Split, split_model
from fxfeat.backbone.strip import strip
from fxfeat.backbone.take_indices import take_indices
from fxfeat.errors import FxfeatError, RequestError
from fxfeat.trace.setup import Setup


@dataclass
class Parts:
    """A model and its parts, which are changed together.

    Attributes:
        setup: the model and its example.
        dtype: that of the model when it was last recorded.
        split: where the features end, or why that is nowhere.
        programs: the code of the two sides of the split.
        ladder: the levels, once they were asked for.
        pooled: whether the model still pools.
    """

    setup: Setup
    dtype: torch.dtype | None
    split: Split | FxfeatError
    programs: Programs | None
    ladder: Ladder | None = None
    pooled: bool = True

    @property
    def root(self) -> nn.Module:
        """The model."""
        return self.setup.model

    @property
    def is_cut(self) -> bool:
        """Whether the model was cut behind one of its levels."""
        return self.ladder is not None and self.ladder.stub

    @property
    def is_headless(self) -> bool:
        """Whether the head went when the model was cut."""
        return self.is_cut and not self.pooled

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "setup": dataclasses.replace(self.setup, _recordings={})}


def read_parts(setup: Setup) -> Parts:
    """Split a model that is made ready."""
    try:
        return Parts(setup, dtype_of(setup.model), *split_model(setup))
    except RequestError as error:
        return Parts(setup, dtype_of(setup.model), error, None)


def split_of(parts: Parts) -> Split:
    """Return the split.

    Raises:
        FxfeatError: where the model has none.
    """
    if isinstance(parts.split, FxfeatError):
        raise parts.split
    return parts.split


def places_of(parts: Parts) -> tuple[Place, ...]:
    """Return where the classifiers sit.

    Raises:
        FxfeatError: where there are none that could be replaced.
    """
    split = split_of(parts)
    if split.places:
        return split.places
    which = "one held by no module of its own" if split.places is None else "none"
    raise RequestError(
        f"{type(parts.root).__name__} has no classifier to get or replace: fxfeat looked for the last linear layer "
        f"on every path to the scores and found {which} ({split.why})."
    )


def classifiers_of(parts: Parts) -> tuple[nn.Module, ...]:
    """Return the classifiers; identities where they were removed."""
    paths = [place.path for place in places_of(parts)]
    return tuple(nn.Identity() if parts.is_headless else parts.root.get_submodule(path) for path in paths)


def has_classifier(parts: Parts) -> bool:
    """Say whether there is a classifier and it was not removed."""
    places = None if isinstance(parts.split, FxfeatError) else parts.split.places
    return bool(places) and not isinstance(classifiers_of(parts)[0], nn.Identity)


def run_features(parts: Parts, args: Any, kwargs: Any) -> Any:
    """Run a model up to its features.

    Raises:
        FxfeatError: where it has no head to leave out.
    """
    ladder = parts.ladder
    if ladder is not None and ladder.stub:
        return finish(ladder, parts.root, run_levels(parts, ladder.last, False, args, kwargs), ladder.last)
    features = tuple(_programs_of(parts).features.run(parts.root, *args, **kwargs).values())
    return features[0] if len(features) == 1 else features


def run_head(parts: Parts, x: Any, pre_logits: bool) -> Any:
    """Run a model from its features on, to its scores or to what goes into its classifiers."""
    if not parts.pooled:
        return x if pre_logits or not has_classifier(parts) else classifiers_of(parts)[0](x)
    programs = _programs_of(parts)
    features = x if isinstance(x, (tuple, list)) else (x,)
    if not pre_logits:
        return programs.head.run(parts.root, *features)["scores"]
    inputs = programs.inputs.run(parts.root, *features).values()
    if len(features) > 1:
        return torch.cat(tuple(inputs), dim=1)
    return programs.after.run(parts.root, *inputs)["scores"]


def _programs_of(parts: Parts) -> Programs:
    if parts.programs is None:
        raise parts.split if isinstance(parts.split, FxfeatError) else AssertionError
    return parts.programs


def ladder_of(parts: Parts) -> Ladder:
    """Return the levels, which are looked for when first asked for.

    Raises:
        FxfeatError: where the model has none.
    """
    if parts.ladder is None:
        names = () if isinstance(parts.split, FxfeatError) else parts.split.names
        _match_example(parts)
        parts.ladder = build_ladder(parts.setup, names[0] if len(names) == 1 else None)
    return parts.ladder


def run_levels(parts: Parts, end: int, whole: bool, args: Any, kwargs: Any) -> dict[str, torch.Tensor]:
    """Run a model up to a level, and to its features as well if ``whole``."""
    _match_example(parts)
    return run_to(ladder_of(parts), parts.setup, parts.root, end, whole, args, kwargs)


def cut(parts: Parts, indices: int | Sequence[int], prune_norm: bool, prune_head: bool) -> list[int]:
    """Take out what comes after the last of some levels; return their indices."""
    ladder = ladder_of(parts)
    taken, last = take_indices(ladder.last + 1, indices)
    fits = last == ladder.last or is_normed(ladder, last)
    _match_example(parts)
    use = cut_ladder(ladder, parts.setup, last, prune_norm)
    if parts.programs is not None and fits and not prune_head:
        use = use | parts.programs.head_use
    else:
        parts.pooled = False
    strip(parts.root, use)
    return taken


def _match_example(parts: Parts) -> None:
    parts.dtype = match_example(parts.setup, parts.dtype)
