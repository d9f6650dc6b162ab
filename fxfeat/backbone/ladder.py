"""Run a model up to some of its levels, and from its last level on to its features."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fxfeat.backbone.arrange import Map
from fxfeat.backbone.level_programs import Levels, Tail, bring, read_levels, write_levels, write_tail
from fxfeat.backbone.program import Program
from fxfeat.backbone.split import FEATURES
from fxfeat.errors import RequestError
from fxfeat.ir.emission import UsedState
from fxfeat.pyramid.final_norm import check_norm
from fxfeat.pyramid.formats import take_grid_tokens
from fxfeat.trace.setup import Setup
from fxfeat.vision.layout import Order


@dataclass
class Ladder:
    """A model's levels with their code, which is written when first run.

    ``features`` is the name of the model's features, ``last`` the last level that is left, and ``stub`` whether the
    model was cut behind it. ``tail`` leads from the last level to the features; None where it is gone, or where the
    features also come from elsewhere.
    """

    levels: Levels
    features: str | None
    tail: Tail | None
    tail_use: UsedState
    last: int
    stub: bool = False
    programs: dict[tuple[int, bool], Program] = field(default_factory=dict)


def build_ladder(setup: Setup, features: str | None) -> Ladder:
    """Find the levels of a model.

    Raises:
        FxfeatError: where it has none.
    """
    levels = read_levels(setup, features)
    written = None if features is None else write_tail(setup, levels, features)
    tail, use = written or (None, UsedState(frozenset(), frozenset()))
    return Ladder(levels, features, tail, use, len(levels.names) - 1)


def run_to(
    ladder: Ladder, setup: Setup, root: nn.Module, end: int, whole: bool, args: Any, kwargs: Any
) -> dict[str, torch.Tensor]:
    """Run a model up to a level, and to its features as well if ``whole``; return the values by the levels' indices."""
    whole = whole and ladder.features is not None and end == ladder.last
    if ladder.stub:
        return ladder.programs[ladder.last, False].run(root, *args, **kwargs)
    if (end, whole) not in ladder.programs:
        name = ladder.features if whole else None
        ladder.programs[end, whole] = write_levels(setup, ladder.levels, end, name)[0]
    return ladder.programs[end, whole].run(root, *args, **kwargs)


def finish(ladder: Ladder, root: nn.Module, values: dict[str, torch.Tensor], end: int) -> torch.Tensor:
    """Return the features that a run up to a level leads to: with the final norm, if that is all there is to come."""
    if FEATURES in values:
        return values[FEATURES]
    value = values[str(end)]
    return pass_tail(ladder, root, value) if _passes_tail(ladder, end) else value


def _passes_tail(ladder: Ladder, end: int) -> bool:
    return end == len(ladder.levels.names) - 1 or is_normed(ladder, end)


def leads_on(ladder: Ladder) -> bool:
    """Say whether what is left of a model leads from its last level on to its features."""
    return ladder.tail is not None and _passes_tail(ladder, ladder.last)


def image_tokens(ladder: Ladder, x: torch.Tensor) -> torch.Tensor:
    """Take those tokens of a sequence of features that are the image's.

    Raises:
        RequestError: where it cannot be said which they are.
    """
    layout = ladder.levels.features
    if layout is None or layout.order != "NLC":
        raise RequestError(
            "The features are a sequence, and which of its tokens are the image's cannot be told. Pool them with code "
            "of your own: forward_features gives them."
        )
    return take_grid_tokens(x, layout)


def read_maps(
    ladder: Ladder,
    root: nn.Module,
    values: dict[str, torch.Tensor],
    indices: Sequence[int],
    norm: bool,
    output_fmt: Order,
    image: tuple[int, ...],
) -> list[Map]:
    """Bring some levels to a format, in the order in which the model makes them, each beside its prefix tokens."""
    maps = []
    for index in sorted(set(indices)):
        value = values[str(index)]
        value = _norm(ladder, root, value, index) if norm else value
        maps.append(bring(value, ladder.levels.layouts[index], image, output_fmt))
    return maps


def _norm(ladder: Ladder, root: nn.Module, value: torch.Tensor, index: int) -> torch.Tensor:
    """Apply the final norm to the value of a level; as in timm, a model that has none leaves it as it is.

    Raises:
        RequestError: where it does not fit.
    """
    if is_normed(ladder, index):
        return pass_tail(ladder, root, value)
    levels, last = ladder.levels, len(ladder.levels.names) - 1
    if not levels.is_normed:
        return value
    path = check_norm(levels.norm, (index,), last, levels.flat, type(root).__name__)
    normed: torch.Tensor = root.get_submodule(path)(value)
    return normed


def is_normed(ladder: Ladder, index: int) -> bool:
    """Say whether the final norm fits a level: any block of a flat model, and the last level of others."""
    fits = ladder.levels.flat or index == len(ladder.levels.names) - 1
    return ladder.tail is not None and ladder.tail.is_norm and fits


def pass_tail(ladder: Ladder, root: nn.Module, value: torch.Tensor) -> torch.Tensor:
    """Lead the value of a level on to the features."""
    if ladder.tail is None:
        return value
    features: torch.Tensor = ladder.tail.program.run(root, value)[FEATURES]
    return features


def cut_ladder(ladder: Ladder, setup: Setup, last: int, prune_norm: bool) -> UsedState:
    """Write the code of a model that ends at a level, and return what it uses."""
    program, use = write_levels(setup, ladder.levels, last, None)
    ladder.programs = {(last, False): program}
    at_end = last == len(ladder.levels.names) - 1
    if prune_norm and ladder.tail is not None and ladder.tail.is_norm:
        ladder.tail = None
    elif ladder.tail is not None and (at_end or is_normed(ladder, last)):
        use = use | ladder.tail_use
    # What leads on holds the norm, if anything does.
    ladder.levels = dataclasses.replace(ladder.levels, norm=None)
    ladder.last, ladder.stub = last, True
    return use
