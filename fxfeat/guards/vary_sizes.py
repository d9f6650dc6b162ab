"""Vary sizes together, and apart where that tells more, to see which of them code is bound to."""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Mapping

from fxfeat.inputs.resized import Axis, Group, gather
from fxfeat.ir.tree import Steps


class Outcome(enum.Enum):
    """What became of the code at other sizes."""

    SAME = "the same code"
    OTHER = "other code"
    CHECKED = "a check refuses these sizes"
    FAILED = "the model does not run"


Vary = Callable[[tuple[Group, ...]], Outcome]
"""Emits at other sizes of some groups, and says what became of the code."""

Outcomes = dict[Group, Outcome]
By = Callable[[Axis], Hashable]


def vary_sizes(groups: tuple[Group, ...], ranks: Mapping[Steps, int], vary: Vary) -> Outcomes:
    """Say what becomes of the code where sizes of inputs change, for each group of axes that change as one.

    Args:
        groups: the axes that are likely to change together.
        ranks: how many dimensions each tensor has.
        vary: emits at other sizes.
    """

    def place(axis: Axis) -> int:
        return axis.dimension - ranks[axis.steps]

    vary = _remembering(vary)
    outcomes = _vary_likeliest(groups, vary)
    # What does not run may have been moved without what belongs to it: both sides of a mask, height without width.
    for name, alike in (*_arrangements(groups, place), ("alone", lambda axis: axis)):
        outcomes = _regroup(outcomes, name, alike, vary)
    apart = (_vary_apart(group, outcome, place, vary) for group, outcome in outcomes.items())
    return {group: outcome for outcomes in apart for group, outcome in outcomes.items()}


def _arrangements(groups: tuple[Group, ...], place: By) -> list[tuple[str, By]]:
    """Say by what axes may be alike that change as one."""
    last = [axis for group in groups for axis in group.axes if place(axis) == -1]
    # A layer's width may be as long as a mask by chance.
    without = [("alike", lambda axis, width=width: (axis.size, axis == width)) for width in last]
    return [("alike", lambda axis: (place(axis), axis.size)), ("alike", lambda axis: axis.size), *without]


def _remembering(vary: Vary) -> Vary:
    """Vary the same axes once only."""
    outcomes: dict[frozenset[Axis], Outcome] = {}

    def remembered(groups: tuple[Group, ...]) -> Outcome:
        axes = frozenset(axis for group in groups for axis in group.axes)
        if axes not in outcomes:
            outcomes[axes] = vary(groups)
        return outcomes[axes]

    return remembered


def _vary_likeliest(groups: tuple[Group, ...], vary: Vary) -> Outcomes:
    """Vary batch and extent at once, which is enough for most models, or else each for itself; then the others."""
    likeliest = tuple(group for group in groups if group.name in ("batch", "extent"))
    at_once = vary(likeliest) if likeliest else Outcome.FAILED
    if at_once is Outcome.SAME:
        return {group: at_once if group in likeliest else vary((group,)) for group in groups}
    outcomes = {group: vary((group,)) for group in groups}
    return _together(outcomes, likeliest, vary)


def _regroup(outcomes: Outcomes, name: str, by: By, vary: Vary) -> Outcomes:
    """Vary the axes of groups that did not run together with others that are alike."""
    failed = [group for group, outcome in outcomes.items() if outcome is Outcome.FAILED]
    loose = [axis for group in failed for axis in group.axes]
    tried = {group: vary((group,)) for group in gather(name, loose, by)}
    run: Outcomes = {group: outcome for group, outcome in tried.items() if outcome is not Outcome.FAILED}
    settled = {axis for group in run for axis in group.axes}
    left = (Group(group.name, tuple(axis for axis in group.axes if axis not in settled)) for group in failed)
    kept = {group: outcome for group, outcome in outcomes.items() if outcome is not Outcome.FAILED}
    return {**kept, **_together(run, tuple(run), vary), **{group: Outcome.FAILED for group in left if group.axes}}


def _vary_apart(group: Group, outcome: Outcome, place: By, vary: Vary) -> Outcomes:
    """Vary by themselves the axes that moved together: code may go by how they differ, or by one of them alone."""
    by_tensor = gather(group.name, group.axes, lambda axis: axis.steps)
    if outcome is Outcome.SAME and any(vary((part,)) is Outcome.OTHER for part in by_tensor[1:]):
        return {group: Outcome.OTHER}
    if outcome is not Outcome.OTHER or vary((group,)) is not Outcome.OTHER:
        return {group: outcome}
    parts = gather(group.name, group.axes, place)
    parts = parts if len(parts) > 1 else by_tensor
    apart = _together({part: vary((part,)) for part in parts}, parts, vary)
    return {part: outcome if outcome is Outcome.SAME else Outcome.OTHER for part, outcome in apart.items()}


def _together(outcomes: Outcomes, groups: tuple[Group, ...], vary: Vary) -> Outcomes:
    """Count as other code what is the same only as long as one group changes at a time."""
    same = tuple(group for group in groups if outcomes[group] is Outcome.SAME)
    if len(same) > 1 and vary(same) is Outcome.OTHER:
        return {**outcomes, **dict.fromkeys(same, Outcome.OTHER)}
    return outcomes
