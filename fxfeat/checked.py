"""Emit code and find out what it is good for: other sizes, other dtypes, a second call."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable

import torch
from torch import nn

from fxfeat.eager import Sight
from fxfeat.emit.emit import emit
from fxfeat.emit.extractor import Emission
from fxfeat.errors import FxfeatError, NodeNotFoundError, TraceError
from fxfeat.faithful import is_faithful, may_hand_on
from fxfeat.freedom import find_dtypes, find_freedom, find_pins, is_same_code
from fxfeat.modes import Setup, record_mode, record_variant
from fxfeat.name.query import Found, InsideLeaf, find
from fxfeat.name.table import name_nodes
from fxfeat.record.examples import Example
from fxfeat.record.leaves import choose_leaves
from fxfeat.record.photograph import Photograph
from fxfeat.record.recording import AS_IT_IS, Answers, Recording
from fxfeat.repeats import check_repeats
from fxfeat.rewrite.draft import Draft
from fxfeat.rewrite.dtypes import has_dtypes, tie_dtypes
from fxfeat.rewrite.passes import rewrite
from fxfeat.rewrite.twins import has_twins, join_twins
from fxfeat.select.features import Feature, select_feature
from fxfeat.steady import find_steady

_RECASTS = (
    {torch.float32: torch.float64},
    {torch.float32: torch.bfloat16},
    {torch.float32: torch.float16},
    {torch.bfloat16: torch.float64, torch.float16: torch.float64},
)
MakeDraft = Callable[[Recording], Draft]


def emit_checked(setup: Setup, recording: Recording, training: bool | None, make: MakeDraft) -> Emission:
    """Emit the code of one mode, with checks for the inputs that it is not good for.

    Args:
        setup: the model and how to record it.
        recording: the recording to emit.
        training: the mode it was made in.
        make: says what is wanted of a recording; it is asked again for recordings at other sizes and dtypes.

    Raises:
        TraceError: where the features change from call to call with what the model keeps in Python.
    """
    make, emission = _emit_what_arrives(setup, recording, training, make)
    draft = make(recording)
    answers = _choose_answers(setup, recording, training, make, emission)
    if answers != AS_IT_IS:
        recording = record_variant(setup, recording, training, answers=answers)
        draft = make(recording)
        emission = emit(rewrite(draft)[0])

    def emit_at(example: Example) -> Emission:
        other = record_variant(setup, recording, training, example, answers=answers)
        return emit(rewrite(make(other))[0])

    _check_calls(setup, recording, training, emission)
    freedoms = find_freedom(setup.model, setup.examples[0], emission, emit_at)
    pins = find_pins(freedoms)
    if pins and not is_same_code(emission, emit_at(setup.examples[0])):
        raise TraceError(
            f"{type(setup.model).__name__} does something else each time it is run on the same input: its code keeps "
            "state where fxfeat cannot see it, as in an iterator, a generator of random numbers or __slots__. Make it "
            "a buffer, or ask for features outside the module that keeps it. A torch.Tensor(2, 3) that it makes holds "
            "what the memory held: make a torch.empty(2, 3)."
        )
    tied = bool(recording.dtype_reads) or (emission.graph is not None and has_dtypes(list(emission.graph.nodes)))
    if tied:
        same = _tie_dtypes(setup, draft, training, make, answers)
        read = {dtype for _, dtype in recording.dtype_reads} or ({torch.float32} if not same else set())
        pins += find_dtypes(setup.model, setup.examples[0], read, any_float=same)
    again = emit(rewrite(dataclasses.replace(draft, pins=pins))[0]) if pins or tied else emission
    steady = find_steady(setup, recording, training)
    return dataclasses.replace(again, freedoms=freedoms, steady=steady, writes_parameters=recording.writes_parameters)


def emit_request(
    setup: Setup, training: bool | None, request: dict[str, str], flatten: bool = False, on_model: bool = False
) -> Emission:
    """Emit the code for values asked for by name.

    Args:
        setup: the model and how to record it.
        training: the mode.
        request: the names by key.
        flatten: write every module out down to the leaves.
        on_model: write code that runs on the model's own tree of modules.

    Raises:
        NodeNotFoundError: for a name that the model does not have in this mode.
        TraceError: for a step that cannot be written out.
    """

    def make(held: Recording) -> Draft:
        return Draft(held, held.graph, tuple(_features(held, request)), flatten=flatten, on_model=on_model)

    return emit_checked(setup, _record_opened(setup, training, request), training, make)


def _record_opened(setup: Setup, training: bool | None, request: dict[str, str]) -> Recording:
    """Record until every leaf that a name lies inside is open."""
    opened: set[str] = set()
    while True:
        recording = record_mode(setup, training, frozenset(opened))
        table = name_nodes(recording)
        found = [find(recording, table, query) for query in request.values()]
        closed = {held.leaf for held in found if isinstance(held, InsideLeaf)}
        if not closed:
            return recording
        opened |= closed


def _features(recording: Recording, request: dict[str, str]) -> list[Feature]:
    table = name_nodes(recording)
    found = {key: find(recording, table, query) for key, query in request.items()}
    return [select_feature(recording, held, key) for key, held in found.items() if isinstance(held, Found)]


def _choose_answers(
    setup: Setup, recording: Recording, training: bool | None, make: MakeDraft, emission: Emission
) -> Answers:
    """Find out what the code goes by of what the model's code was told: that is checked, the rest is not."""

    def emit_told(answers: Answers) -> list[Emission]:
        # That the model refuses some numbers, as an index past the end, does not tell.
        with contextlib.suppress(FxfeatError):
            return [emit(rewrite(make(record_variant(setup, recording, training, answers=answers)))[0])]
        return []

    chosen = AS_IT_IS
    if recording.reads_values:
        told = [*emit_told(Answers(values="larger")), *emit_told(Answers(values="smaller"))]
        if not told or not all(is_same_code(emission, other) for other in told):
            chosen = dataclasses.replace(chosen, values="pinned")
    if recording.asks_gradients:
        told = [*emit_told(Answers(gradients="on")), *emit_told(Answers(gradients="off"))]
        if len(told) == 2 and is_same_code(*told):
            chosen = dataclasses.replace(chosen, gradients="on")
    if has_twins(recording):
        told = emit_told(Answers(twins="together"))
        if not told or not is_same_code(emit(join_twins(rewrite(make(recording))[0])), told[0]):
            chosen = dataclasses.replace(chosen, twins="checked")
    return chosen


def _emit_what_arrives(
    setup: Setup, recording: Recording, training: bool | None, make: MakeDraft
) -> tuple[MakeDraft, Emission]:
    """Emit code in which what modules hand on to each other in Python arrives, and say how it was made.

    Raises:
        TraceError: where it does not arrive however much is.
    """

    def make_wary(held: Recording) -> Draft:
        return dataclasses.replace(make(held), wary=True)

    for chosen in (make, make_wary):
        draft = rewrite(chosen(recording))[0]
        emission = emit(draft)
        if draft.on_model or not may_hand_on(recording, draft):
            return chosen, emission
        sight = Sight(emission.rows, choose_leaves(setup.tracer_kwargs, recording.opened), setup.examples[0], training)
        if is_faithful(_to_run(setup, recording), sight, emission, setup.tracer_kwargs):
            return chosen, emission
        _check_calls(setup, recording, training, emission)
    raise TraceError(
        f"{type(setup.model).__name__} hands something on from one module to another, or to the next call, in Python "
        f"({_name_handed_on(recording)}), which written-out code does not. Ask for features outside the modules that "
        "do so: then they are called whole."
    )


def _check_calls(setup: Setup, recording: Recording, training: bool | None, emission: Emission) -> None:
    """Raise where features change from call to call with what opened modules keep in Python."""
    opened = {"", *emission.opened}
    changed = [held for held in recording.changed if held[0] in opened]
    changed += [(held.path, held.name) for held in recording.settings if recording.spans[held.span].path in opened]
    if not changed and _reaches(setup.model, opened, recording.altered):
        changed = [("", "what its attributes hold")]
    if changed:
        leaves = choose_leaves(setup.tracer_kwargs, recording.opened)
        check_repeats(_to_run(setup, recording), Sight(emission.rows, leaves, setup.examples[0], training), changed)


def _to_run(setup: Setup, recording: Recording) -> nn.Module:
    """Return the model, or a copy where it writes to its parameters, which nothing puts back."""
    return copy.deepcopy(setup.model) if recording.writes_parameters else setup.model


def _name_handed_on(recording: Recording) -> str:
    names = [(held.path, held.name) for held in recording.settings] or list(recording.changed)
    shown = dict.fromkeys(f"{path}.{name}".lstrip(".") for path, name in names)
    return ", ".join(list(shown)[:3]) or "in a list, a dict or a global that they share"


def _reaches(model: nn.Module, opened: set[str], altered: frozenset[int]) -> bool:
    """Say whether opened modules hold any of what a call altered, in closures, tuples or objects."""
    if not altered:
        return False
    held = Photograph()
    held.take_modules([model.get_submodule(path) for path in opened], known=list(model.modules()))
    return held.reaches(altered)


def _tie_dtypes(setup: Setup, draft: Draft, training: bool | None, make: MakeDraft, answers: Answers) -> bool:
    """Tie dtypes to the tensors they were read from; say whether the code is then the same in other dtypes."""
    same = True
    for recast in _RECASTS:
        with contextlib.suppress(TraceError):
            other = record_variant(setup, draft.recording, training, recast=recast, answers=answers)
            tie_dtypes(draft.recording, other)
            same = same and _has_same_code(draft, other, make)
    return same


def _has_same_code(draft: Draft, other: Recording, make: MakeDraft) -> bool:
    try:
        return emit(rewrite(make(other))[0]).source.text == emit(rewrite(draft)[0]).source.text
    except NodeNotFoundError:  # rounding has led it elsewhere, as to another expert
        return False
