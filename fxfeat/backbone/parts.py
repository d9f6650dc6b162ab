"""The parts of a model: what leads to its features, its head, its levels, and what was cut off."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fxfeat.backbone.example_inputs import dtype_of, match_example
from fxfeat.backbone.head_places import Place
from fxfeat.backbone.head_pooling import Pooling, pool
from fxfeat.backbone.ladder import (
    Ladder,
    build_ladder,
    cut_ladder,
    finish,
    image_tokens,
    is_normed,
    leads_on,
    run_to,
)
from fxfeat.backbone.split import Programs, Split, split_model, write_features
from fxfeat.backbone.strip import strip
from fxfeat.backbone.take_indices import take_indices
from fxfeat.errors import FxfeatError, RequestError
from fxfeat.ir.engine import Engine
from fxfeat.ir.example import Example
from fxfeat.trace.setup import Setup

PRUNED_CHECKPOINTS = (
    "Gradient checkpointing runs the model's own code, which needs the layers that prune_intermediate_layers takes "
    "out; use one or the other."
)


@dataclass
class Parts:
    """A model and its parts, which are changed together.

    Attributes:
        setup: the model and its example.
        dtype: that of the model when it was last recorded.
        split: where the features end, or why that is nowhere.
        programs: the code of the two sides of the split.
        ladder: the levels, once they were asked for.
        pooling: the pooling asked for: None for the model's own, ``""`` for none.
        headless: whether the head went when the model was cut.
        engine: the user's choice; while the model checkpoints, its own Python runs and values are copied out of it.
        variants: levels that were recorded with other arguments beside the image, by these.
        attached: where a classifier was put behind a model that has no place for one.
    """

    setup: Setup
    dtype: torch.dtype | None
    split: Split | FxfeatError
    programs: Programs | None
    ladder: Ladder | None = None
    pooling: str | None = None
    headless: bool = False
    attached: Place | None = None
    engine: Engine = "auto"
    variants: dict[tuple[str, ...], Parts] = field(default_factory=dict)

    @property
    def root(self) -> nn.Module:
        """The model."""
        return self.setup.model

    @property
    def is_cut(self) -> bool:
        """Whether the model was cut behind one of its levels."""
        return self.ladder is not None and self.ladder.stub

    @property
    def is_as_it_was(self) -> bool:
        """Whether the model's own code still does all that is asked for."""
        return self.pooling is None and self.attached is None and not self.is_cut

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "setup": dataclasses.replace(self.setup, _recordings={})}


def read_parts(setup: Setup) -> Parts:
    """Split a model that is made ready."""
    try:
        parts = Parts(setup, dtype_of(setup.model), *split_model(setup), engine=setup.engine)
    except RequestError as error:
        parts = Parts(setup, dtype_of(setup.model), error, None, engine=setup.engine)
    if _checkpoints(setup.model):
        rewrite(parts)
    return parts


def _checkpoints(model: nn.Module) -> bool:
    flags = ("grad_checkpointing", "gradient_checkpointing")
    return any(getattr(module, flag, False) is True for module in model.modules() for flag in flags)


def rewrite(parts: Parts) -> None:
    """Write what leads to features and levels again, by the model's own Python while that checkpoints."""
    setup = parts.setup
    setup.engine = "tap" if _checkpoints(parts.root) else parts.engine
    if parts.programs is not None:
        features = write_features(setup, split_of(parts).names)
        parts.programs = dataclasses.replace(parts.programs, features=features)
    if parts.ladder is not None:
        parts.ladder.programs = {}
    parts.variants.clear()


def split_of(parts: Parts) -> Split:
    """Return the split.

    Raises:
        FxfeatError: where the model has none.
    """
    if isinstance(parts.split, FxfeatError):
        raise parts.split
    return parts.split


def list_places(parts: Parts) -> tuple[Place, ...]:
    """List where classifiers sit or sat; none where there is no place for one.

    Raises:
        FxfeatError: where the model cannot be split.
    """
    return split_of(parts).places or ((parts.attached,) if parts.attached else ())


def pooling_of(parts: Parts) -> Pooling | None:
    """Return how the model pools; None where no one value is pooled."""
    return split_of(parts).pooling


def classifiers_of(parts: Parts) -> tuple[nn.Module, ...]:
    """Return the classifiers; an identity where one was removed, or there is none.

    Raises:
        FxfeatError: where one is held by no module of its own.
    """
    if isinstance(parts.split, FxfeatError):
        return (nn.Identity(),)
    if parts.split.places is None:
        raise RequestError(explain_no_place(parts))
    paths = [place.path for place in list_places(parts)]
    if parts.headless or not paths:
        return (nn.Identity(),) * max(1, len(paths))
    return tuple(parts.root.get_submodule(path) for path in paths)


def explain_no_place(parts: Parts) -> str:
    """Say that a model's classifier has no module."""
    return (
        f"{type(parts.root).__name__} has no classifier to get or replace: fxfeat looked for the last linear layer on "
        f"every path to the scores and found one held by no module of its own ({split_of(parts).why})."
    )


def has_classifier(parts: Parts) -> bool:
    """Say whether there is a classifier and it was not removed."""
    if isinstance(parts.split, FxfeatError) or not list_places(parts):
        return False
    return not isinstance(classifiers_of(parts)[0], nn.Identity)


def count_features(parts: Parts) -> int:
    """Count the channels of the features, of all together where there are several.

    Raises:
        FxfeatError: where the model cannot be split.
    """
    ladder = parts.ladder
    if ladder is not None and ladder.stub and not leads_on(ladder):
        return ladder.levels.layouts[ladder.last].channels
    split = split_of(parts)
    return sum(shape[axis] for shape, axis in zip(split.shapes, split.channels, strict=True))


def count_hidden(parts: Parts) -> int:
    """Count the numbers that go into the classifier for each image; those of the features where there is no head.

    Raises:
        FxfeatError: where the model cannot be split.
    """
    if parts.headless:
        return count_features(parts)
    split = split_of(parts)
    if split.width is None:
        return count_features(parts) * (2 if parts.pooling == "catavgmax" else 1)
    if split.places is not None and len(split.places) > 1:
        widths = [place.layer.width for place in split.places]
        return sum(widths) if len(split.shapes) > 1 else widths[0]
    return round(split.width * multiply(parts, parts.pooling))


def multiply(parts: Parts, pooling: str | None) -> float:
    """Say how many times as wide as with the model's own pooling a classifier's input is with another."""
    own = pooling_of(parts)
    if own is None or not pooling:
        return 1.0
    return (2 if pooling == "catavgmax" else 1) / own.multiple


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
    if parts.headless:
        return x
    if parts.pooling is not None or parts.attached is not None:
        return _run_changed_head(parts, x, pre_logits)
    programs = _programs_of(parts)
    features = x if isinstance(x, (tuple, list)) else (x,)
    if not pre_logits:
        return programs.head.run(parts.root, *features)["scores"]
    inputs = programs.inputs.run(parts.root, *features).values()
    if len(features) > 1:
        return torch.cat(tuple(inputs), dim=1)
    return programs.after.run(parts.root, *inputs)["scores"]


def _run_changed_head(parts: Parts, x: Any, pre_logits: bool) -> Any:
    """Run a head with another pooling than the model's own, or with a classifier that the model has no place for."""
    embedding = _embed(parts, x)
    if pre_logits or not has_classifier(parts):
        return embedding
    pooling = pooling_of(parts)
    if parts.pooling == "" or parts.attached is not None or pooling is None:
        return classifiers_of(parts)[0](embedding)
    return _programs_of(parts).rest.run(parts.root, _pool(parts, pooling, x))["scores"]


def _embed(parts: Parts, x: Any) -> Any:
    """Compute what goes into the classifier."""
    programs, pooling = _programs_of(parts), pooling_of(parts)
    if parts.pooling is None:
        return programs.head.run(parts.root, x)["scores"]
    if pooling is None or (parts.pooling == "" and (pooling.is_last or split_of(parts).width is None)):
        return x
    if parts.pooling == "":
        return next(iter(programs.at_places.run(parts.root, x).values()))
    pooled = _pool(parts, pooling, x)
    if split_of(parts).width is None:
        return pooled
    inputs = programs.rest_inputs.run(parts.root, pooled).values()
    return programs.after.run(parts.root, *inputs)["scores"]


def _pool(parts: Parts, pooling: Pooling, x: torch.Tensor) -> torch.Tensor:
    """Pool features the way that was asked for; of tokens, those of the image alone."""
    assert parts.pooling is not None
    if pooling.is_tokens and parts.pooling != "token":
        x = image_tokens(ladder_of(parts), x)
    return pool(x, pooling, parts.pooling)


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
    if kwargs and not parts.is_cut:
        parts = _vary(parts, args, kwargs)
    return run_to(ladder_of(parts), parts.setup, parts.root, end, whole, args, kwargs)


def _vary(parts: Parts, args: Any, kwargs: dict[str, Any]) -> Parts:
    """Return a model's parts for other arguments beside the image; recorded with those when first given."""
    key = tuple(sorted(kwargs))
    if key not in parts.variants:
        example = Example((*args, *parts.setup.examples[0].args[len(args) :]), dict(kwargs))
        setup = dataclasses.replace(parts.setup, examples=(example,), _recordings={})
        ladder = dataclasses.replace(ladder_of(parts), programs={})
        parts.variants[key] = dataclasses.replace(parts, setup=setup, ladder=ladder, variants={})
    return parts.variants[key]


def cut(parts: Parts, indices: int | Sequence[int], prune_norm: bool, prune_head: bool) -> list[int]:
    """Take out what comes after the last of some levels; return their indices."""
    if _checkpoints(parts.root):
        raise RequestError(PRUNED_CHECKPOINTS)
    ladder = ladder_of(parts)
    taken, last = take_indices(ladder.last + 1, indices)
    fits = last == ladder.last or is_normed(ladder, last)
    _match_example(parts)
    use = cut_ladder(ladder, parts.setup, last, prune_norm)
    if parts.programs is not None and fits and not prune_head:
        use = use | parts.programs.head_use
    else:
        parts.headless = True
    strip(parts.root, use)
    return taken


def _match_example(parts: Parts) -> None:
    parts.dtype = match_example(parts.setup, parts.dtype)
