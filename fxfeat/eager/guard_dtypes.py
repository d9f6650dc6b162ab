"""Record in other dtypes where code may go by one, to follow those that it reads and to check those it goes by."""

from __future__ import annotations

import contextlib
import dataclasses
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import fx

from fxfeat.eager.one_mode import OneMode, emit_draft
from fxfeat.errors import NodeNotFoundError, TraceError
from fxfeat.guards.checked_sizes import list_taken_as_given
from fxfeat.guards.dtypes import (
    OF_INPUTS,
    RECASTS,
    Floats,
    has_dtypes,
    have_one_float,
    read_floats,
    run_alike,
    tie_dtypes,
)
from fxfeat.guards.free_sizes import find_dtypes, find_places
from fxfeat.inputs.resized import cast
from fxfeat.ir.emission import Emission
from fxfeat.ir.example import Example
from fxfeat.ir.guard import Guard, InputGuard
from fxfeat.ir.node_meta import NodeMeta, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import tensors
from fxfeat.trace.copied_recording import copy_nodes
from fxfeat.trace.setup import record_variant


def goes_by_dtypes(emission: Emission) -> bool:
    """Say whether opened code may have gone by a dtype, or names one."""
    return emission.told_dtypes or (emission.graph is not None and has_dtypes(list(emission.graph.nodes)))


def guard_dtypes(mode: OneMode, emission: Emission) -> tuple[OneMode, tuple[InputGuard, ...], Floats]:
    """Tie dtypes to the tensors that they were read from, and say which are to be checked.

    Args:
        mode: the recording.
        emission: what is emitted for it.

    Returns:
        The recording with dtypes tied, the checks of inputs, and what floating dtypes the code is good for.
    """
    alone, moved = _record_inputs_alone(mode), []
    for other in _record_in(mode, _ways_to_move(mode)):
        moved.append(other)
        if not run_alike(mode.recording, other) and _makes_other_calls(mode, other, emission):
            return fix_dtypes(tie(mode, [*alone, *moved]))  # no further dtype can change that
    tied = tie(mode, [*alone, *moved])
    if _have_code(tied, [*alone, *moved]):
        return tied, _find_guards(tied, any_float=True), "any"
    together = tie(mode, moved) if alone and have_one_float(mode.recording, emission, mode.setup.examples[0]) else None
    if together is not None and _have_code(together, moved):
        return relate_dtypes(together, emission), _find_guards(together, any_float=True), "alike"
    return fix_dtypes(tied)


def fix_dtypes(mode: OneMode) -> tuple[OneMode, tuple[InputGuard, ...], Floats]:
    """Check that all dtypes are those of the recording."""
    guards = _find_guards(mode, any_float=False)
    # Those of inputs are checked before anything runs.
    inside = [read for read in mode.recording.dtype_reads if read.node.all_input_nodes[0].op != "placeholder"]
    return _with_guards(mode, inside), guards, "fixed"


def relate_dtypes(mode: OneMode, emission: Emission) -> OneMode:
    """Check that all floating dtypes that opened code reads are one and the same, as in the recording.

    Args:
        mode: a recording with nodes of its own.
        emission: what is emitted for it.
    """
    first, *others = read_floats(mode.recording, emission)
    return _with_guards(mode, [_relate(mode.recording.graph, read, first) for read in others])


def _relate(graph: fx.Graph, read: Guard, first: Guard) -> Guard:
    with graph.inserting_after(read.node):
        same = graph.call_function(operator.eq, (read.node, first.node))
    same.meta["fxfeat"] = NodeMeta(meta_of(read.node).position, meta_of(read.node).module_call)
    where = f"{first.where}: `{first.source}`, and the same dtype at {read.where}"
    return dataclasses.replace(read, node=same, expected=True, where=where)


def _with_guards(mode: OneMode, more: Sequence[Guard]) -> OneMode:
    guards = sorted([*mode.recording.guards, *more], key=lambda guard: guard.position)
    recording = dataclasses.replace(mode.recording, guards=tuple(guards))
    return dataclasses.replace(mode, recording=recording, draft=mode.make(recording))


def _find_guards(mode: OneMode, any_float: bool) -> tuple[InputGuard, ...]:
    read = {read.expected for read in mode.recording.dtype_reads} or (set() if any_float else {torch.float32})
    return find_dtypes(mode.setup.model, mode.setup.examples[0], read, any_float=any_float)


def tie(mode: OneMode, others: Iterable[Recording]) -> OneMode:
    """Tie dtypes in a copy of the recording, which is another request's as well."""
    recording = copy_nodes(mode.recording)
    mode = dataclasses.replace(mode, recording=recording, draft=mode.make(recording))
    tie_dtypes(recording, others)
    return mode


def record_recast(mode: OneMode, example: Example) -> Recording | None:
    """Record the whole model in another dtype, the first in which it runs."""
    return next(_record_in(mode, ({"recast": recast, "example": example} for recast in RECASTS)), None)


def _record_inputs_alone(mode: OneMode) -> list[Recording]:
    """Record with inputs of other dtypes: code that casts them to the weights' shows by this alone that it goes by it.

    What layers take as it comes has the dtype of their weights.
    """
    example = mode.setup.examples[0]
    given = {steps: tensor for steps, tensor in tensors((example.args, example.kwargs)) if tensor.dtype in OF_INPUTS}
    places = find_places(mode.setup.model, example)
    taken = list_taken_as_given(mode.recording)
    if not given or any(places[steps] in taken for steps in given):
        return []
    return list(_record_in(mode, [{"example": cast(example, OF_INPUTS)}]))


def _ways_to_move(mode: OneMode) -> list[dict[str, Any]]:
    """List dtypes for the whole model, as ``half()`` makes it."""
    example = mode.setup.examples[0]
    given = {tensor.dtype for _, tensor in tensors((example.args, example.kwargs))}
    present = given | {tensor.dtype for tensor in mode.setup.model.state_dict().values()}
    return [{"recast": recast} for recast in RECASTS if not present.isdisjoint(recast)]


def _record_in(mode: OneMode, ways: Iterable[dict[str, Any]]) -> Iterator[Recording]:
    for way in ways:
        with contextlib.suppress(TraceError):
            yield record_variant(mode.setup, mode.recording, mode.training, assumptions=mode.assumptions, **way)


def _makes_other_calls(mode: OneMode, other: Recording, emission: Emission) -> bool:
    """Say whether code for another recording calls something else, whatever dtypes are tied to."""
    try:
        graph = emit_draft(mode.make(other)).graph
    except (NodeNotFoundError, TraceError):
        return True
    return calls_in(graph) != calls_in(emission.graph)


def calls_in(graph: fx.Graph | None) -> list[tuple[str, Any]]:
    """List what a graph calls, in order."""
    return [(node.op, node.target) for node in graph.nodes] if graph is not None else []


def _have_code(mode: OneMode, others: Iterable[Recording]) -> bool:
    text = emit_draft(mode.draft).source.text
    return all(has_code(mode, other, text) for other in others)


def has_code(mode: OneMode, other: Recording, text: str) -> bool:
    """Say whether the code for another recording is some text."""
    try:
        return emit_draft(mode.make(other)).source.text == text
    except (NodeNotFoundError, TraceError):  # rounding has led it elsewhere, or it casts its own parameters there
        return False
