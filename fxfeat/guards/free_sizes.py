"""Find out which sizes of the inputs emitted code is good for, by emitting it again at other sizes."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection

import torch
from torch import nn

from fxfeat.errors import FxfeatError
from fxfeat.inputs.examples import bind
from fxfeat.inputs.resized import Axis, Group, find_groups, growths, resize
from fxfeat.ir.emission import DimStatus, Emission, State
from fxfeat.ir.equality import is_equal
from fxfeat.ir.example import Example
from fxfeat.ir.guard import InputGuard
from fxfeat.ir.tree import Steps, tensors


class Outcome(enum.Enum):
    """What became of the code at other sizes."""

    SAME = "the same code"
    OTHER = "other code"
    CHECKED = "a check refuses these sizes"
    FAILED = "the model does not run"


_STATES: dict[Outcome, State] = {
    Outcome.SAME: "free",
    Outcome.OTHER: "fixed",
    Outcome.CHECKED: "checked",
    Outcome.FAILED: "fixed",
}
_EXTENTS = {-1: "width", -2: "height", -3: "depth", -4: "time"}


def find_free_sizes(
    model: nn.Module, example: Example, emission: Emission, emit_at: Callable[[Example], Emission]
) -> tuple[DimStatus, ...]:
    """Find the sizes of the inputs that may change, and those that must stay as they are in the example.

    A size can reach the code without a trace in the graph: through ``range``, NumPy or a Python list. Code emitted at
    another size then differs, and that size is fixed. So is one at which the model itself does not run.

    Args:
        model: the model.
        example: the example the emission was made with.
        emission: what is emitted at the example's sizes.
        emit_at: emits at other sizes.

    Returns:
        What is known of each batch, extent and length; a layer's width, which no model could change, is left out.
    """
    groups, apart = find_groups(example), find_groups(example, rows=False)
    if not emission.told:
        # Code that sees tensors alone makes the same calls at every size, or fails where the model does.
        groups = apart = tuple(group for group in groups if not group.name.startswith("size"))
    states = _find_states(example, emission, emit_at, groups)
    if apart != groups and states[groups[0]] is Outcome.FAILED:
        # What is as long as the batch may be so by chance.
        states = _find_states(example, emission, emit_at, apart)
    places = _find_places(model, example)
    return tuple(
        DimStatus(*places[axis.steps], axis.dimension, axis.size, _name(group, axis, example), _STATES[state])
        for group, state in states.items()
        for axis in group.axes
        if state is not Outcome.FAILED or not group.name.startswith(("length", "size"))
    )


def _find_states(
    example: Example, emission: Emission, emit_at: Callable[[Example], Emission], groups: tuple[Group, ...]
) -> dict[Group, Outcome]:
    together = tuple(group for group in groups if group.name in ("batch", "extent"))
    free = not emission.told or (together and _try(example, emission, emit_at, together, combined=True) is Outcome.SAME)
    states = dict.fromkeys(together, Outcome.SAME) if free else {}
    for group in groups:
        if group not in states:
            states[group] = _try(example, emission, emit_at, (group,), combined=False)
    return states


def find_input_guards(freedoms: tuple[DimStatus, ...]) -> tuple[InputGuard, ...]:
    """List the sizes to check at run time."""
    bound = [status for status in freedoms if status.state == "fixed"]
    return tuple(InputGuard(status.parameter, status.steps, status.dimension, status.size) for status in bound)


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
    places = _find_places(model, example)
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
    combined: bool,
) -> Outcome:
    """Emit at other sizes of some groups until the model runs at one, and say what became of the code."""
    outcomes: list[Outcome] = []
    for way in list(growths(groups[-1]))[: 2 if combined else None]:
        outcomes.append(_compare(example, emission, emit_at, groups, way))
        if outcomes[-1] in (Outcome.SAME, Outcome.OTHER):
            return outcomes[-1]
    return Outcome.CHECKED if Outcome.CHECKED in outcomes else Outcome.FAILED


def _compare(
    example: Example,
    emission: Emission,
    emit_at: Callable[[Example], Emission],
    groups: tuple[Group, ...],
    way: Callable[[Axis], int],
) -> Outcome:
    batch = next(growths(Group("batch", ())))
    try:
        # A batch of 1 is left for the checks to find: code that asks for one leaves a trace.
        grown = resize(example, groups, lambda axis: batch(axis) if axis.dimension == 0 else way(axis))
        other = emit_at(grown)
    except FxfeatError:
        return Outcome.FAILED
    if emission.guards != other.guards:
        return Outcome.CHECKED
    return Outcome.SAME if is_same_code(emission, other) else Outcome.OTHER


def is_same_code(left: Emission, right: Emission) -> bool:
    """Say whether two emissions are the same text over the same constants."""
    if left.source.text != right.source.text or left.constants.keys() != right.constants.keys():
        return False
    pairs = [(value, right.constants[name]) for name, value in left.constants.items()]
    return all(mine is theirs or is_equal(mine, theirs) for mine, theirs in pairs)


def _find_places(model: nn.Module, example: Example) -> dict[Steps, tuple[str, Steps]]:
    """Map the steps to each tensor of an example to the argument of ``forward`` that holds it, and the steps there."""
    bound = bind(model, example).arguments.items()
    places = {id(tensor): (name, steps) for name, value in bound for steps, tensor in tensors(value)}
    return {steps: places[id(tensor)] for steps, tensor in tensors((example.args, example.kwargs))}


def _name(group: Group, axis: Axis, example: Example) -> str:
    if group.name != "extent":
        return group.name.split()[0]
    ranks = {steps: tensor.dim() for steps, tensor in tensors((example.args, example.kwargs))}
    return _EXTENTS[axis.dimension - ranks[axis.steps]]
