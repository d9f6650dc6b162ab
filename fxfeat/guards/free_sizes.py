"""Find out which sizes of the inputs emitted code is good for, by emitting it again at other sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection

import torch
from torch import nn

from fxfeat.errors import FxfeatError
from fxfeat.guards.checked_sizes import list_checked_sizes, list_failing_sizes
from fxfeat.guards.refused_sizes import list_refused
from fxfeat.guards.vary_sizes import Outcome, Outcomes, Vary, vary_sizes
from fxfeat.inputs.examples import bind
from fxfeat.inputs.resized import Axis, Group, find_groups, growths, resize
from fxfeat.ir.emission import DimStatus, Emission, State
from fxfeat.ir.equality import is_equal
from fxfeat.ir.example import Example
from fxfeat.ir.guard import InputGuard
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import Steps, tensors

_STATES: dict[Outcome, State] = {
    Outcome.SAME: "free",
    Outcome.OTHER: "fixed",
    Outcome.CHECKED: "checked",
    Outcome.FAILED: "fixed",
}
_EXTENTS = {-1: "width", -2: "height", -3: "depth", -4: "time"}


@dataclasses.dataclass(frozen=True)
class Tried:
    """Axes of which the model's code says that they must be as they were, and sizes at which others ran."""

    refused: set[Axis]
    ran_at: dict[Axis, int]


def find_free_sizes(
    recording: Recording, example: Example, emission: Emission, emit_at: Callable[[Example], Emission]
) -> tuple[DimStatus, ...]:
    """Find the sizes of the inputs that may change, and those that must stay as they are in the example.

    A size can reach the code without a trace in the graph: through ``range``, NumPy or a Python list. Code emitted at
    another size then differs, and that size is fixed. So is one at which the model itself does not run.

    Args:
        recording: what was emitted.
        example: the example it was recorded with.
        emission: what is emitted at the example's sizes.
        emit_at: emits at other sizes.

    Returns:
        What is known of each batch, extent and length; a layer's width, which no model could change, is left out.
    """
    every, places = find_groups(example), find_places(recording.root, example)
    axes = {axis: (*places[axis.steps], axis.dimension) for group in every for axis in group.axes}
    checked, failing = list_checked_sizes(emission), list_failing_sizes(recording)
    bound = {axis: Outcome.FAILED for axis, place in axes.items() if place in failing}
    bound |= {axis: Outcome.CHECKED for axis, place in axes.items() if place in checked}
    groups = _without(every, bound)
    ranks = {steps: tensor.dim() for steps, tensor in tensors((example.args, example.kwargs))}

    tried = Tried(set(), {})

    def vary(varied: tuple[Group, ...]) -> Outcome:
        if not tried.refused.isdisjoint(axis for group in varied for axis in group.axes):
            return Outcome.FAILED
        return _try(example, emission, emit_at, varied, tried)

    outcomes = vary_sizes(groups, ranks, vary) if emission.told else _leave_free(groups, vary)
    settled = {axis: (group, outcome) for group, outcome in outcomes.items() for axis in group.axes}
    homes = {axis: group for group in every for axis in group.axes}
    settled.update({axis: (homes[axis], outcome) for axis, outcome in bound.items()})

    def name(axis: Axis) -> str:
        settled_with = settled[axis][0]
        # What is as long as a sequence is called a length too, wherever it stands.
        is_usual = settled_with in (*groups, *every)
        lead = axis if is_usual else max(settled_with.axes, key=lambda other: ranks[other.steps])
        home = homes[lead].name
        return _EXTENTS[lead.dimension - ranks[lead.steps]] if home == "extent" else home.split()[0]

    def describe(axis: Axis) -> DimStatus:
        outcome = settled[axis][1]
        runs = outcome is not Outcome.FAILED
        place, ran_at = (*places[axis.steps], axis.dimension), tried.ran_at.get(axis)
        return DimStatus(*place, axis.size, name(axis), _STATES[outcome], runs, ran_at)

    widths = {axis for axis, home in homes.items() if home.name.startswith(("length", "size"))}
    varied = (axis for axis in homes if axis in settled)
    return tuple(describe(axis) for axis in varied if settled[axis][1] is not Outcome.FAILED or axis not in widths)


def grow_free(recording: Recording, example: Example, freedoms: Collection[DimStatus]) -> Example | None:
    """Return an example in which all sizes that are free are others, at which the model ran; None where none is.

    Args:
        recording: what was recorded.
        example: the example it was recorded with.
        freedoms: what is known of the sizes.
    """
    free = {(one.parameter, one.steps, one.dimension): one.ran_at for one in freedoms if one.state == "free"}
    places = find_places(recording.root, example)
    axes = [axis for group in find_groups(example) for axis in group.axes]
    sizes = {axis: free.get((*places[axis.steps], axis.dimension)) for axis in axes}
    grown = {axis: size for axis, size in sizes.items() if size is not None}
    return resize(example, grown) if grown else None


def _without(groups: tuple[Group, ...], axes: Collection[Axis]) -> tuple[Group, ...]:
    """Leave some axes out of the groups."""
    left = (Group(group.name, tuple(axis for axis in group.axes if axis not in axes)) for group in groups)
    return tuple(group for group in left if group.axes)


def _leave_free(groups: tuple[Group, ...], vary: Vary) -> Outcomes:
    """Vary nothing but lengths, which may be a layer's width: code that sees tensors alone makes the same calls."""
    free: Outcomes = {group: Outcome.SAME for group in groups if group.name in ("batch", "extent")}
    return {**free, **{group: vary((group,)) for group in groups if group.name.startswith("length")}}


def find_input_guards(freedoms: tuple[DimStatus, ...]) -> tuple[InputGuard, ...]:
    """List the sizes to check at run time."""
    bound = [status for status in freedoms if status.state == "fixed"]
    return tuple(
        InputGuard(status.parameter, status.steps, status.dimension, status.size, runs=status.runs) for status in bound
    )


def find_dtypes(
    model: nn.Module, example: Example, read: Collection[torch.dtype], any_float: bool
) -> tuple[InputGuard, ...]:
    """List what is to be checked of the dtypes of an example's inputs.

    Args:
        model: the model.
        example: the example.
        read: the dtypes that the model's code asked for.
        any_float: whether the code was found to be the same in other floating dtypes.
    """
    asked = {dtype.is_floating_point for dtype in read}
    places = find_places(model, example)
    concerned = [pair for pair in tensors((example.args, example.kwargs)) if pair[1].is_floating_point() in asked]
    return tuple(
        InputGuard(*places[steps], None, True, "dtype.is_floating_point")
        if any_float and tensor.is_floating_point()
        else InputGuard(*places[steps], None, tensor.dtype)
        for steps, tensor in concerned
    )


def _try(
    example: Example,
    emission: Emission,
    emit_at: Callable[[Example], Emission],
    groups: tuple[Group, ...],
    tried: Tried,
) -> Outcome:
    """Emit at other sizes of some groups until the model runs at one, say what became of the code, and note it."""
    outcomes: list[Outcome] = []
    for sizes in _list_sizes(groups):
        try:
            outcomes.append(_compare(emission, emit_at(resize(example, sizes))))
        except FxfeatError as error:
            outcomes.append(Outcome.FAILED)
            tried.refused.update(list_refused(error.__cause__, sizes, _left_alone(example, {*sizes, *tried.refused})))
        if outcomes[-1] is Outcome.SAME:
            tried.ran_at.update(sizes)
        if outcomes[-1] in (Outcome.SAME, Outcome.OTHER) or not tried.refused.isdisjoint(sizes):
            return outcomes[-1]
    return Outcome.CHECKED if Outcome.CHECKED in outcomes else Outcome.FAILED


def _list_sizes(groups: tuple[Group, ...]) -> list[dict[Axis, int]]:
    """List other sizes for the axes of some groups, likeliest to suit a model first."""
    ways = [growths(group) for group in groups]
    turns = min(2, max(map(len, ways))) if len(groups) > 1 else len(ways[0])
    return [
        {
            axis: grow[min(turn, len(grow) - 1)](axis)
            for group, grow in zip(groups, ways, strict=True)
            for axis in group.axes
        }
        for turn in range(turns)
    ]


def _compare(emission: Emission, other: Emission) -> Outcome:
    if emission.guards != other.guards:
        return Outcome.CHECKED
    return Outcome.SAME if is_same_code(emission, other) else Outcome.OTHER


def _left_alone(example: Example, axes: Collection[Axis]) -> frozenset[int]:
    """Return the lengths of an example's tensors along all other axes."""
    given = tensors((example.args, example.kwargs))
    every = (Axis(steps, d, size) for steps, tensor in given for d, size in enumerate(tensor.shape))
    return frozenset(axis.size for axis in every if axis not in axes)


def is_same_code(left: Emission, right: Emission) -> bool:
    """Say whether two emissions are the same text over the same constants."""
    if left.source.text != right.source.text or left.constants.keys() != right.constants.keys():
        return False
    pairs = [(value, right.constants[name]) for name, value in left.constants.items()]
    return all(mine is theirs or is_equal(mine, theirs) for mine, theirs in pairs)


def find_places(model: nn.Module, example: Example) -> dict[Steps, tuple[str, Steps]]:
    """Map the steps to each tensor of an example to the argument of ``forward`` that holds it, and the steps there."""
    bound = bind(model, example).arguments.items()
    places = {id(tensor): (name, steps) for name, value in bound for steps, tensor in tensors(value)}
    return {steps: places[id(tensor)] for steps, tensor in tensors((example.args, example.kwargs))}
