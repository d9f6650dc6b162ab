"""Emit the code of one mode, with checks for the inputs that it is not good for."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import torch

from fxfeat.codegen.emit import emit
from fxfeat.eager.implicit_inputs import MakeDraft, check_calls, emit_what_arrives
from fxfeat.eager.purity import find_purity
from fxfeat.errors import UNSEEN_STATE, NodeNotFoundError, TraceError
from fxfeat.guards.choose_assumptions import choose_assumptions
from fxfeat.guards.dtypes import OF_INPUTS, RECASTS, has_dtypes, tie_dtypes
from fxfeat.guards.free_sizes import find_dtypes, find_free_sizes, find_input_guards, is_same_code
from fxfeat.guards.same_tensor import join_same_tensor
from fxfeat.guards.unneeded_inputs import are_unneeded, list_unneeded
from fxfeat.inputs.resized import cast
from fxfeat.ir.assumptions import AS_IT_IS, STAND_INS, Assumptions
from fxfeat.ir.draft import Draft, last_produced_at
from fxfeat.ir.emission import DimStatus, Emission
from fxfeat.ir.example import Example
from fxfeat.ir.guard import InputGuard
from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import tensors
from fxfeat.passes.left_out import left_out
from fxfeat.passes.run_passes import rewrite
from fxfeat.trace.copied_recording import as_training, copy_nodes, derive_training
from fxfeat.trace.setup import Setup, record_variant


@dataclasses.dataclass(frozen=True)
class _Mode:
    """A model recorded in one mode, under some assumptions, and what is wanted of that recording and of others."""

    setup: Setup
    training: bool | None
    make: MakeDraft
    recording: Recording
    draft: Draft
    assumptions: Assumptions = AS_IT_IS


@dataclasses.dataclass(frozen=True)
class Checked:
    """Code with the checks that it needs, and the draft that it was emitted from."""

    draft: Draft
    emission: Emission


def emit_checked(setup: Setup, recording: Recording, training: bool | None, make: MakeDraft) -> Checked:
    """Emit the code of one mode, with checks for the inputs that it is not good for.

    Args:
        setup: the model and how to record it.
        recording: the recording to emit.
        training: the mode it was made in.
        make: says what is wanted of a recording; it is asked again for recordings at other sizes and dtypes.

    Raises:
        TraceError: where the features change from call to call with what the model keeps in Python.
    """
    make, emission = emit_what_arrives(setup, recording, training, make)
    mode, emission = _assume(_Mode(setup, training, make, recording, make(recording)), emission)
    mode, emission = _leave_unneeded(mode, emission)
    check_calls(setup, mode.recording, training, emission)
    unneeded = mode.assumptions.unneeded
    found = find_free_sizes(mode.recording, setup.examples[0], emission, lambda example: _emit_at(mode, example))
    freedoms = tuple(dataclasses.replace(one, state="free") if one.parameter in unneeded else one for one in found)
    input_guards = find_input_guards(freedoms)
    if input_guards and not any(status.state == "free" for status in freedoms):
        _check_same_again(mode, emission)
    goes_by_dtypes = _goes_by_dtypes(mode, emission)
    if goes_by_dtypes:
        mode, dtypes = _guard_dtypes(mode)
        input_guards += tuple(guard for guard in dtypes if guard.parameter not in unneeded)
    draft = dataclasses.replace(mode.draft, input_guards=input_guards)
    if input_guards or goes_by_dtypes:
        emission = _emit(draft)
    return Checked(draft, _describe(setup, draft.recording, training, emission, freedoms))


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
    return _describe(setup, as_training(recording), True, emission, checked.emission.freedoms)


def _does_all(checked: Checked) -> bool:
    """Say whether code does all that modules do in train mode only, up to the last value or to state that is kept."""
    recording, graph = checked.draft.recording, checked.emission.graph
    assert graph is not None
    end = last_produced_at(checked.draft.features)
    early = (node for node in recording.nodes[:end] if meta_of(node).in_training)
    late = (node for node in recording.nodes[end:] if meta_of(node).in_training & recording.kept)
    return not left_out(recording, graph, (*early, *late))


def _emit_derived(checked: Checked, make: MakeDraft) -> Emission:
    draft = make(derive_training(checked.draft.recording))
    opens = checked.draft.opens_implicit_inputs
    return _emit(dataclasses.replace(draft, input_guards=checked.draft.input_guards, opens_implicit_inputs=opens))


def _describe(
    setup: Setup, recording: Recording, training: bool | None, emission: Emission, freedoms: tuple[DimStatus, ...]
) -> Emission:
    """Add to an emission what is known of the run that it comes from."""
    return dataclasses.replace(
        emission,
        freedoms=freedoms,
        purity=find_purity(setup, recording, training),
        writes_parameters=recording.writes_parameters,
    )


def _emit(draft: Draft) -> Emission:
    return emit(rewrite(draft)[0])


# -- what the code was told --------------------------------------------------------------------------------------------


def _assume(mode: _Mode, emission: Emission) -> tuple[_Mode, Emission]:
    """Record and emit again where what the model's code was told matters to the features, so that it is checked."""
    assumptions = choose_assumptions(
        mode.recording,
        emission,
        emit_assuming=lambda told: _emit(mode.make(_record_assuming(mode, told))),
        emit_joined=lambda: emit(join_same_tensor(rewrite(mode.make(mode.recording))[0])),
    )
    return (mode, emission) if assumptions == AS_IT_IS else _record_again(mode, assumptions)


def _record_again(mode: _Mode, assumptions: Assumptions) -> tuple[_Mode, Emission]:
    recording = _record_assuming(mode, assumptions)
    draft = mode.make(recording)
    return dataclasses.replace(mode, recording=recording, draft=draft, assumptions=assumptions), _emit(draft)


def _leave_unneeded(mode: _Mode, emission: Emission) -> tuple[_Mode, Emission]:
    """Leave inputs unchecked that no feature needs, also where the model fails later without them."""
    example, names = mode.setup.examples[0], list(mode.recording.signature.parameters)
    unneeded = list_unneeded(emission, {*names[: len(example.args)], *example.kwargs})
    if not unneeded:
        return mode, emission
    told = dataclasses.replace(mode.assumptions, unneeded=unneeded)

    def emit_told(stand_in: str) -> Emission:
        return _emit(mode.make(_record_assuming(mode, dataclasses.replace(told, stand_in=stand_in))))

    if not are_unneeded(lambda: emit_told(""), [functools.partial(emit_told, stand_in) for stand_in in STAND_INS]):
        return mode, emission
    return _record_again(mode, told)


def _record_assuming(mode: _Mode, assumptions: Assumptions) -> Recording:
    return record_variant(mode.setup, mode.recording, mode.training, assumptions=assumptions)


# -- sizes -------------------------------------------------------------------------------------------------------------


def _emit_at(mode: _Mode, example: Example) -> Emission:
    """Emit for another example."""
    other = record_variant(mode.setup, mode.recording, mode.training, example, assumptions=mode.assumptions)
    return _emit(mode.make(other))


def _check_same_again(mode: _Mode, emission: Emission) -> None:
    """Raise where the same example gives other code the second time: no size is to blame for that."""
    if not is_same_code(emission, _emit_at(mode, mode.setup.examples[0])):
        raise TraceError(
            f"{type(mode.setup.model).__name__} does something else each time it is run on the same input: its code "
            "keeps state where fxfeat cannot see it, as in an iterator, a generator of random numbers or __slots__. "
            "Make it a buffer, or ask for features outside the module that keeps it. A torch.Tensor(2, 3) that it "
            "makes holds what the memory held: make a torch.empty(2, 3).",
            path="",
            reason=UNSEEN_STATE,
        )


# -- dtypes ------------------------------------------------------------------------------------------------------------


def _goes_by_dtypes(mode: _Mode, emission: Emission) -> bool:
    """Say whether the model asked for a dtype, or its code names one."""
    return bool(mode.recording.dtype_reads) or (emission.graph is not None and has_dtypes(list(emission.graph.nodes)))


def _guard_dtypes(mode: _Mode) -> tuple[_Mode, tuple[InputGuard, ...]]:
    """Tie dtypes to the tensors that they were read from, and say which dtypes are to be checked."""
    others = list(_record_in_other_dtypes(mode))
    # The recording is another request's as well.
    recording = copy_nodes(mode.recording)
    mode = dataclasses.replace(mode, recording=recording, draft=mode.make(recording))
    tie_dtypes(recording, others)
    text = _emit(mode.draft).source.text
    is_same = all(_has_code(mode, other, text) for other in others)
    reads = mode.recording.dtype_reads
    read = {read.expected for read in reads} or ({torch.float32} if not is_same else set())
    guards = find_dtypes(mode.setup.model, mode.setup.examples[0], read, any_float=is_same)
    if is_same:
        return mode, guards
    # Those of inputs are checked before anything runs.
    inside = [read for read in reads if read.node.all_input_nodes[0].op != "placeholder"]
    kept = sorted([*mode.recording.guards, *inside], key=lambda guard: guard.position)
    recording = dataclasses.replace(mode.recording, guards=tuple(kept))
    return dataclasses.replace(mode, recording=recording, draft=mode.make(recording)), guards


def _record_in_other_dtypes(mode: _Mode) -> Iterator[Recording]:
    """Record in other dtypes: the whole model, as ``half()`` makes it, and its inputs alone."""
    example = mode.setup.examples[0]
    given = {tensor.dtype for _, tensor in tensors((example.args, example.kwargs))}
    present = given | {tensor.dtype for tensor in mode.setup.model.state_dict().values()}
    ways: list[dict[str, Any]] = [{"recast": recast} for recast in RECASTS if not present.isdisjoint(recast)]
    if not given.isdisjoint(OF_INPUTS):
        ways.append({"example": cast(example, OF_INPUTS)})
    for way in ways:
        with contextlib.suppress(TraceError):
            yield record_variant(mode.setup, mode.recording, mode.training, assumptions=mode.assumptions, **way)


def _has_code(mode: _Mode, other: Recording, text: str) -> bool:
    try:
        return _emit(mode.make(other)).source.text == text
    except (NodeNotFoundError, TraceError):  # rounding has led it elsewhere, or it casts its own parameters there
        return False
