"""Find out which of the things that a model's code was told its emitted code goes by: those are checked."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable

from fxfeat.errors import FxfeatError
from fxfeat.guards.free_sizes import is_same_code
from fxfeat.guards.same_tensor import has_same_tensor
from fxfeat.ir.assumptions import AS_IT_IS, Assumptions, Gradients, Values
from fxfeat.ir.emission import Emission
from fxfeat.ir.recording import Recording

EmitTold = Callable[[Assumptions], Emission | None]
"""Emits for a recording that was told something else; None where the model refuses that."""

_OTHER_GRADIENTS: tuple[Gradients, ...] = ("off", "all", "none", "frozen")
"""How gradients may be in other runs."""


def choose_assumptions(
    recording: Recording,
    emission: Emission,
    emit_assuming: Callable[[Assumptions], Emission],
    emit_joined: Callable[[], Emission],
) -> Assumptions:
    """Say what is to be checked of what the model's code was told; the rest does not matter to the features.

    Args:
        recording: the recording, told what holds for its own run.
        emission: what is emitted for it.
        emit_assuming: emits for a recording that was told otherwise.
        emit_joined: emits for this recording with inputs of one shape taken for one tensor.
    """

    def emit_told(assumptions: Assumptions) -> Emission | None:
        with contextlib.suppress(FxfeatError):
            return emit_assuming(assumptions)
        return None

    chosen = AS_IT_IS
    if recording.reads_values and not _is_same_with_other_values(recording, emission, emit_told):
        chosen = dataclasses.replace(chosen, values="pinned")
    if recording.asks_gradients and _is_same_with_and_without_gradients(emit_told):
        chosen = dataclasses.replace(chosen, gradients="on")
    if has_same_tensor(recording) and not _is_same_with_one_tensor(emit_joined, emit_told):
        chosen = dataclasses.replace(chosen, same_tensor="checked")
    return chosen


def _is_same_with_other_values(recording: Recording, emission: Emission, emit_told: EmitTold) -> bool:
    wishes: list[Values] = ["larger", "smaller"]
    if float in recording.reads_values:
        wishes.append("not a number")
    others = (emit_told(Assumptions(values=wish)) for wish in wishes)
    return all(other is not None and is_same_code(emission, other) for other in others)


def _is_same_with_and_without_gradients(emit_told: EmitTold) -> bool:
    with_gradients = emit_told(Assumptions(gradients="on"))
    others = (emit_told(Assumptions(gradients=told)) for told in _OTHER_GRADIENTS)
    return with_gradients is not None and all(
        other is not None and is_same_code(with_gradients, other) for other in others
    )


def _is_same_with_one_tensor(emit_joined: Callable[[], Emission], emit_told: EmitTold) -> bool:
    together = emit_told(Assumptions(same_tensor="together"))
    return together is not None and is_same_code(emit_joined(), together)
