"""Emit the code of one mode, with checks for the inputs that it is not good for."""

from __future__ import annotations

import dataclasses
import functools

from fxfeat.codegen.emit import emit
from fxfeat.eager.as_in_other_mode import check_as, is_like
from fxfeat.eager.checked import Checked, describe
from fxfeat.eager.guard_dtypes import goes_by_dtypes, guard_dtypes
from fxfeat.eager.implicit_inputs import MakeDraft, check_calls, check_settings_of_others, emit_what_arrives
from fxfeat.eager.one_mode import OneMode, emit_at, emit_draft, record_again, record_assuming
from fxfeat.eager.purity import find_purity
from fxfeat.errors import UNSEEN_STATE, TraceError
from fxfeat.guards.choose_assumptions import choose_assumptions
from fxfeat.guards.free_sizes import find_free_sizes, find_input_guards, is_same_code
from fxfeat.guards.same_tensor import join_same_tensor
from fxfeat.guards.unneeded_inputs import are_unneeded, list_unneeded
from fxfeat.ir.assumptions import AS_IT_IS, STAND_INS
from fxfeat.ir.draft import last_produced_at
from fxfeat.ir.emission import Emission
from fxfeat.ir.node_meta import RNG, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.passes.left_out import left_out
from fxfeat.passes.run_passes import rewrite
from fxfeat.trace.copied_recording import as_training, derive_training
from fxfeat.trace.setup import Setup


def emit_checked(
    setup: Setup, recording: Recording, training: bool | None, make: MakeDraft, other: Checked | None = None
) -> Checked:
    """Emit the code of one mode, with checks for the inputs that it is not good for.

    Args:
        setup: the model and how to record it.
        recording: the recording to emit.
        training: the mode it was made in.
        make: says what is wanted of a recording; it is asked again for recordings at other sizes and dtypes.
        other: the same request in the other mode; code that is the same needs the same checks, if it still is at
            other sizes.

    Raises:
        TraceError: where the features change from call to call with what the model keeps in Python.
    """
    make, unchecked = emit_what_arrives(setup, recording, training, make)
    mode = OneMode(setup, training, make, recording, make(recording))
    checked = check_as(mode, unchecked, other) if other is not None and is_like(mode, unchecked, other) else None
    return checked or _check_all(mode, unchecked)


def _check_all(mode: OneMode, unchecked: Emission) -> Checked:
    """Find out what code goes by, and check that."""
    setup, training = mode.setup, mode.training
    mode, emission = _assume(mode, unchecked)
    mode, emission = _leave_unneeded(mode, emission)
    check_calls(setup, mode.recording, training, emission)
    check_settings_of_others(setup, mode.recording, emission)
    unneeded = mode.assumptions.unneeded
    found = find_free_sizes(mode.recording, setup.examples[0], emission, lambda example: emit_at(mode, example))
    freedoms = tuple(dataclasses.replace(one, state="free") if one.parameter in unneeded else one for one in found)
    input_guards = find_input_guards(freedoms)
    if input_guards and not any(status.state == "free" for status in freedoms):
        _check_same_again(mode, emission)
    goes, floats = goes_by_dtypes(emission), Checked.floats
    if goes:
        mode, dtypes, floats = guard_dtypes(mode, emission)
        input_guards += tuple(guard for guard in dtypes if guard.parameter not in unneeded)
    draft = dataclasses.replace(mode.draft, input_guards=input_guards)
    if input_guards or goes:
        emission = emit_draft(draft)
    emission = describe(emission, draft.recording, freedoms, find_purity(setup, draft.recording, training))
    return Checked(draft, emission, unchecked, mode.assumptions, floats)


# -- train mode, where one trace serves both ---------------------------------------------------------------------------


def emit_in_train_mode(setup: Setup, checked: Checked, make: MakeDraft) -> Emission | None:
    """Emit for train mode what was checked in eval mode; None where that takes checks of its own.

    Where one trace serves both modes, code that is the same needs the same checks.

    Args:
        setup: the model and how to record it.
        checked: the code of eval mode.
        make: says what is wanted of a recording.
    """
    recording = checked.draft.recording
    if not recording.same_in_training or recording.changes_python:
        return None
    emission = checked.emission if _does_all(checked) else _emit_derived(checked, make)
    if not is_same_code(emission, checked.emission):
        return None
    trained = as_training(recording)
    return describe(emission, trained, checked.emission.freedoms, find_purity(setup, trained, True))


def _does_all(checked: Checked) -> bool:
    """Say whether code does all that modules do in train mode only, up to the last value or to state that is kept."""
    recording, graph = checked.draft.recording, checked.emission.graph
    assert graph is not None
    end = last_produced_at(checked.draft.features)
    draws = any(RNG in meta_of(node).in_training for node in recording.nodes[:end])
    early = (node for node in recording.nodes[:end] if meta_of(node).in_training or (draws and meta_of(node).draws))
    late = (node for node in recording.nodes[end:] if meta_of(node).in_training & recording.kept)
    return not left_out(recording, graph, (*early, *late))


def _emit_derived(checked: Checked, make: MakeDraft) -> Emission:
    draft = make(derive_training(checked.draft.recording))
    opens = checked.draft.opens_implicit_inputs
    return emit_draft(dataclasses.replace(draft, input_guards=checked.draft.input_guards, opens_implicit_inputs=opens))


# -- what the code was told --------------------------------------------------------------------------------------------


def _assume(mode: OneMode, emission: Emission) -> tuple[OneMode, Emission]:
    """Record and emit again where what the model's code was told matters to the features, so that it is checked."""
    assumptions = choose_assumptions(
        mode.recording,
        emission,
        emit_assuming=lambda told: emit_draft(mode.make(record_assuming(mode, told))),
        emit_joined=lambda: emit(join_same_tensor(rewrite(mode.make(mode.recording))[0])),
    )
    return (mode, emission) if assumptions == AS_IT_IS else record_again(mode, assumptions)


def _leave_unneeded(mode: OneMode, emission: Emission) -> tuple[OneMode, Emission]:
    """Leave inputs unchecked that no feature needs, also where the model fails later without them."""
    example, names = mode.setup.examples[0], list(mode.recording.signature.parameters)
    unneeded = list_unneeded(emission, {*names[: len(example.args)], *example.kwargs})
    if not unneeded:
        return mode, emission
    told = dataclasses.replace(mode.assumptions, unneeded=unneeded)

    def emit_told(stand_in: str) -> Emission:
        return emit_draft(mode.make(record_assuming(mode, dataclasses.replace(told, stand_in=stand_in))))

    if not are_unneeded(lambda: emit_told(""), [functools.partial(emit_told, stand_in) for stand_in in STAND_INS]):
        return mode, emission
    return record_again(mode, told)


# -- sizes -------------------------------------------------------------------------------------------------------------


def _check_same_again(mode: OneMode, emission: Emission) -> None:
    """Raise where the same example gives other code the second time: no size is to blame for that."""
    if not is_same_code(emission, emit_at(mode, mode.setup.examples[0])):
        raise TraceError(
            f"{type(mode.setup.model).__name__} does something else each time it is run on the same input: its code "
            "keeps state where fxfeat cannot see it, as in an iterator, a generator of random numbers or __slots__. "
            "Make it a buffer, or ask for features outside the module that keeps it. A torch.Tensor(2, 3) that it "
            "makes holds what the memory held: make a torch.empty(2, 3).",
            path="",
            reason=UNSEEN_STATE,
        )
