"""Find out which sizes of the inputs emitted code is good for, by emitting it again at other sizes."""

from __future__ import annotations

import enum
from collections.abc import Callable

import torch
from torch import nn

from fxfeat.emit.extractor import Emission
from fxfeat.errors import FxfeatError
from fxfeat.record.examples import Example, bind
from fxfeat.record.structure import tensors
from fxfeat.record.variants import Axis, Group, find_groups, growths, resize
from fxfeat.rewrite.pin import Pin


class Outcome(enum.Enum):
    """What became of the code at other sizes."""

    SAME = "the same code"
    OTHER = "other code"
    CHECKED = "a check refuses these sizes"
    FAILED = "the model does not run"


def find_pins(
    model: nn.Module, example: Example, emission: Emission, emit_at: Callable[[Example], Emission]
) -> tuple[Pin, ...]:
    """Find the sizes that must stay as they are in the example.

    A size can reach the code without a trace in the graph: through ``range``, NumPy or a Python list. Code emitted at
    another size then differs, and that size is pinned. So is one at which the model itself does not run.

    Args:
        model: the model.
        example: the example the emission was made with.
        emission: what is emitted at the example's sizes.
        emit_at: emits at other sizes.

    Returns:
        What to check at run time.
    """
    groups = find_groups(example)
    together = tuple(group for group in groups if group.name in ("batch", "extent"))
    if together and _is_free(example, emission, emit_at, together, combined=True):
        groups = tuple(group for group in groups if group not in together)
    bound = [group for group in groups if not _is_free(example, emission, emit_at, (group,), combined=False)]
    return tuple(_pin(model, example, axis) for group in bound for axis in group.axes)


def _is_free(
    example: Example,
    emission: Emission,
    emit_at: Callable[[Example], Emission],
    groups: tuple[Group, ...],
    combined: bool,
) -> bool:
    ways = list(growths(groups[-1]))[: 2 if combined else None]
    outcomes: list[Outcome] = []
    for way in ways:
        outcomes.append(_compare(example, emission, emit_at, groups, way))
        if outcomes[-1] in (Outcome.SAME, Outcome.OTHER):
            break
    if combined or outcomes[-1] in (Outcome.SAME, Outcome.OTHER):
        return outcomes[-1] is Outcome.SAME
    # A size that the checks refuse needs no pin, nor does one that no model could have: a layer's width.
    return Outcome.CHECKED in outcomes or groups[-1].name.startswith("length")


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
    return Outcome.SAME if _is_same_code(emission, other) else Outcome.OTHER


def _is_same_code(left: Emission, right: Emission) -> bool:
    if left.source.text != right.source.text or left.constants.keys() != right.constants.keys():
        return False
    return all(_equal(value, right.constants[name]) for name, value in left.constants.items())


def _equal(left: torch.Tensor, right: torch.Tensor) -> bool:
    return left is right or (left.shape == right.shape and left.dtype == right.dtype and torch.equal(left, right))


def _pin(model: nn.Module, example: Example, axis: Axis) -> Pin:
    """Name the argument of ``forward`` that an axis of the example belongs to."""
    tensor = next(held for steps, held in tensors((example.args, example.kwargs)) if steps == axis.steps)
    places = ((name, *found) for name, value in bind(model, example).arguments.items() for found in tensors(value))
    name, steps = next((name, steps) for name, steps, held in places if held is tensor)
    return Pin(name, steps, axis.dimension, axis.size)
