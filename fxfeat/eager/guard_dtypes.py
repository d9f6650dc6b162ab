"""Record in other dtypes where code may go by one, to follow those that it reads and to check those it goes by."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import fx

from fxfeat.eager.one_mode import OneMode, emit_draft
from fxfeat.errors import NodeNotFoundError, TraceError
from fxfeat.guards.dtypes import OF_INPUTS, RECASTS, has_dtypes, run_alike, tie_dtypes
from fxfeat.guards.free_sizes import find_dtypes
from fxfeat.inputs.resized import cast
from fxfeat.ir.emission import Emission
from fxfeat.ir.guard import InputGuard
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import tensors
from fxfeat.trace.copied_recording import copy_nodes
from fxfeat.trace.setup import record_variant


def goes_by_dtypes(emission: Emission) -> bool:
    """Say whether opened code may have gone by a dtype, or names one."""
    return emission.told_dtypes or (emission.graph is not None and has_dtypes(list(emission.graph.nodes)))


def guard_dtypes(mode: OneMode, emission: Emission) -> tuple[OneMode, tuple[InputGuard, ...], bool]:
    """Tie dtypes to the tensors that they were read from, and say which are to be checked.

    Args:
        mode: the recording.
        emission: what is emitted for it.

    Returns:
        The recording with dtypes tied, the checks of inputs, and whether the code is good for any floating dtype.
    """
    others: list[Recording] = []
    is_same = True
    for other in _record_in_other_dtypes(mode):
        others.append(other)
        if not run_alike(mode.recording, other) and _makes_other_calls(mode, other, emission):
            is_same = False  # no further dtype can change that
            break
    mode = tie(mode, others)
    text = emit_draft(mode.draft).source.text
    is_same = is_same and all(_has_code(mode, other, text) for other in others)
    reads = mode.recording.dtype_reads
    read = {read.expected for read in reads} or ({torch.float32} if not is_same else set())
    guards = find_dtypes(mode.setup.model, mode.setup.examples[0], read, any_float=is_same)
    if is_same:
        return mode, guards, True
    # Those of inputs are checked before anything runs.
    inside = [read for read in reads if read.node.all_input_nodes[0].op != "placeholder"]
    kept = sorted([*mode.recording.guards, *inside], key=lambda guard: guard.position)
    recording = dataclasses.replace(mode.recording, guards=tuple(kept))
    return dataclasses.replace(mode, recording=recording, draft=mode.make(recording)), guards, False


def tie(mode: OneMode, others: Iterable[Recording]) -> OneMode:
    """Tie dtypes in a copy of the recording, which is another request's as well."""
    recording = copy_nodes(mode.recording)
    mode = dataclasses.replace(mode, recording=recording, draft=mode.make(recording))
    tie_dtypes(recording, others)
    return mode


def record_recast(mode: OneMode) -> list[Recording]:
    """Record the whole model in another dtype, the first in which it runs."""
    return list(itertools.islice(_record_in(mode, ({"recast": recast} for recast in RECASTS)), 1))


def _record_in_other_dtypes(mode: OneMode) -> Iterator[Recording]:
    """Record in other dtypes: the inputs alone, and the whole model, as ``half()`` makes it."""
    example = mode.setup.examples[0]
    given = {tensor.dtype for _, tensor in tensors((example.args, example.kwargs))}
    present = given | {tensor.dtype for tensor in mode.setup.model.state_dict().values()}
    ways: list[dict[str, Any]] = [{"recast": recast} for recast in RECASTS if not present.isdisjoint(recast)]
    if not given.isdisjoint(OF_INPUTS):
        # Code that casts its inputs to the weights' dtype shows by this alone that it goes by it.
        ways.insert(0, {"example": cast(example, OF_INPUTS)})
    return _record_in(mode, ways)


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
    return _calls_in(graph) != _calls_in(emission.graph)


def _calls_in(graph: fx.Graph | None) -> list[tuple[str, Any]]:
    return [(node.op, node.target) for node in graph.nodes] if graph is not None else []


def _has_code(mode: OneMode, other: Recording, text: str) -> bool:
    try:
        return emit_draft(mode.make(other)).source.text == text
    except (NodeNotFoundError, TraceError):  # rounding has led it elsewhere, or it casts its own parameters there
        return False
