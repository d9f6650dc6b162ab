"""Give code the checks that it has in the other mode, where it makes the same calls there."""

from __future__ import annotations

import contextlib
import dataclasses

from fxfeat.eager.checked import Checked, describe
from fxfeat.eager.guard_dtypes import (
    calls_in,
    fix_dtypes,
    goes_by_dtypes,
    has_code,
    record_recast,
    relate_dtypes,
    tie,
)
from fxfeat.eager.implicit_inputs import check_calls, check_settings_of_others
from fxfeat.eager.one_mode import OneMode, emit_draft, record_again, record_at
from fxfeat.eager.purity import find_purity
from fxfeat.errors import TraceError
from fxfeat.guards.free_sizes import grow_free
from fxfeat.guards.same_tensor import has_same_tensor
from fxfeat.ir.assumptions import AS_IT_IS
from fxfeat.ir.emission import Emission, Purity
from fxfeat.ir.example import Example
from fxfeat.ir.recording import Recording


def is_like(mode: OneMode, unchecked: Emission, other: Checked) -> bool:
    """Say whether code makes the same calls in both modes, and was told as much.

    Args:
        mode: the recording of one mode.
        unchecked: what is emitted for it.
        other: the other mode.
    """
    told = _list_told(mode.recording, unchecked), _list_told(other.draft.recording, other.unchecked)
    return told[0] == told[1] and calls_in(unchecked.graph) == calls_in(other.unchecked.graph)


def _list_told(recording: Recording, unchecked: Emission) -> tuple[object, ...]:
    """List what code was told, and what it checks of that by itself."""
    asked = (recording.reads_values, recording.asks_gradients, has_same_tensor(recording))
    return (*asked, unchecked.told, unchecked.told_dtypes, unchecked.guards)


def check_as(mode: OneMode, unchecked: Emission, other: Checked) -> Checked | None:
    """Give code the checks that it has in the other mode; None where what they leave free changes it.

    Args:
        mode: the recording of one mode.
        unchecked: what is emitted for it.
        other: the other mode.

    Raises:
        TraceError: where the features change from call to call with what the model keeps in Python.
    """
    emission = unchecked
    if other.assumptions != AS_IT_IS:
        mode, emission = record_again(mode, other.assumptions)
    check_calls(mode.setup, mode.recording, mode.training, emission)
    check_settings_of_others(mode.setup, mode.recording, emission)
    checked_mode = _follow_dtypes(mode, emission, other)
    if checked_mode is None:
        return None
    draft = dataclasses.replace(checked_mode.draft, input_guards=other.draft.input_guards)
    emission = emit_draft(draft)
    if emission.guards != other.emission.guards:
        return None
    emission = describe(emission, draft.recording, other.emission.freedoms, _find_purity(mode, other))
    return Checked(draft, emission, unchecked, mode.assumptions, other.floats)


def _follow_dtypes(mode: OneMode, emission: Emission, other: Checked) -> OneMode | None:
    """Tie or check dtypes as in the other mode; None where code changes at the sizes and dtypes that are free there."""
    freedoms, example = other.emission.freedoms, mode.setup.examples[0]
    grown = grow_free(mode.recording, example, freedoms) if emission.told else None
    moves = goes_by_dtypes(emission) and other.floats != "fixed"
    if grown is not None or moves:
        run = _record_otherwise(mode, grown or example, moves)
        mode = tie(mode, [run]) if moves and run is not None else mode
        if run is None or not has_code(mode, run, emit_draft(mode.draft).source.text):
            return None
    if moves and other.floats == "alike":
        return relate_dtypes(mode, emission)
    return fix_dtypes(tie(mode, []))[0] if other.floats == "fixed" else mode


def _record_otherwise(mode: OneMode, example: Example, moves: bool) -> Recording | None:
    """Record with another example, and in another dtype as well."""
    with contextlib.suppress(TraceError):
        return record_recast(mode, example) if moves else record_at(mode, example)
    return None


def _find_purity(mode: OneMode, other: Checked) -> Purity | None:
    """Say what a run changes: as much as in the other mode, where it does so to as much."""
    mine, theirs = mode.recording, other.draft.recording
    names = ("changed_attributes", "mutated", "writes_state")
    if all(getattr(mine, name) == getattr(theirs, name) for name in names):
        return other.emission.purity
    return find_purity(mode.setup, mine, mode.training)
