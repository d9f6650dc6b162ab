"""Emit code in which what modules leave behind for each other in plain Python arrives, or raise."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable, Container, Iterable

from torch import nn

from fxfeat.codegen.emit import emit
from fxfeat.eager.agreement import agrees_with_eager, may_have_implicit_inputs
from fxfeat.eager.observe import Observation
from fxfeat.eager.repeated_calls import check_repeats
from fxfeat.errors import TraceError
from fxfeat.ir.draft import Draft
from fxfeat.ir.emission import Emission
from fxfeat.ir.guard import AttributeRead, AttributeWrite, spell_attribute
from fxfeat.ir.recording import Recording
from fxfeat.isolation.python_state import PythonState
from fxfeat.passes.run_passes import rewrite
from fxfeat.trace.leaves import choose_leaves
from fxfeat.trace.setup import Setup

MakeDraft = Callable[[Recording], Draft]


def emit_what_arrives(
    setup: Setup, recording: Recording, training: bool | None, make: MakeDraft
) -> tuple[MakeDraft, Emission]:
    """Emit code in which what modules hand on to each other in Python arrives, and say how it was made.

    Raises:
        TraceError: where it does not arrive however much is.
    """

    def make_open(recording: Recording) -> Draft:
        return dataclasses.replace(make(recording), opens_implicit_inputs=True)

    for chosen in (make, make_open):
        draft = rewrite(chosen(recording))[0]
        emission = emit(draft)
        if draft.on_model or not may_have_implicit_inputs(recording, draft):
            return chosen, emission
        observation = to_observe(setup, recording, training, emission)
        if agrees_with_eager(to_run(setup, recording), observation, emission, setup.tracer_kwargs):
            return chosen, emission
        check_calls(setup, recording, training, emission)
    raise TraceError(
        f"{type(setup.model).__name__} hands something on from one module to another, or to the next call, in Python "
        f"({_name_implicit_inputs(recording)}), which written-out code does not. Ask for features outside the modules "
        "that do so: then they are called whole.",
        path=_around_implicit_inputs(recording),
        reason=f"modules hand something on in Python ({_name_implicit_inputs(recording)})",
    )


def check_calls(setup: Setup, recording: Recording, training: bool | None, emission: Emission) -> None:
    """Raise where features change from call to call with what opened modules keep in Python."""
    opened = opened_in(emission)
    _check_settings(setup, recording, opened)
    changed = [(path, name) for path, name in recording.changed_attributes if path in opened]
    writes = [write for write in recording.attribute_writes if is_opened(recording, write, opened)]
    # The deepest module that changes itself, or what is around one that is changed and the one that does so.
    at = (
        shared_path(around_writes(writes, recording))
        if writes
        else max((path for path, _ in changed), key=_depth, default="")
    )
    changed += [(write.path, write.name) for write in writes]
    if not changed and _reaches(setup.model, opened, recording.mutated):
        changed = [("", "what its attributes hold")]
    if changed:
        check_repeats(to_run(setup, recording), to_observe(setup, recording, training, emission), changed, at)


def check_settings_of_others(setup: Setup, recording: Recording, emission: Emission) -> None:
    """Raise where opened code sets what a module that stays whole may go by: next time, or in the other mode alone."""
    opened = opened_in(emission)
    for write in recording.attribute_writes:
        is_of_other = write.is_setting and write.path not in opened and is_opened(recording, write, opened)
        if is_of_other and _is_run_whole(setup.model, recording, write.path, opened):
            name = spell_attribute(write.path, write.name)
            raise TraceError(
                f"{type(setup.model).__name__} sets {name!r} at {write.where}, which the next call of that module may "
                "go by; written-out code does not set it. Ask for features outside the module that does so: then it "
                "is called whole.",
                path=shared_path(around_writes([write], recording)),
                reason=f"its code sets {name!r}, which the next call may go by",
            )


def _is_run_whole(model: nn.Module, recording: Recording, path: str, opened: Container[str]) -> bool:
    """Say whether a module, or one that holds it, is called whole: of others the methods alone are, by opened code."""
    module = model.get_submodule(path)
    whole = {call.path for call in recording.module_calls if call.path not in opened}
    return any(module in set(model.get_submodule(each).modules()) for each in whole)


def to_observe(setup: Setup, recording: Recording, training: bool | None, emission: Emission) -> Observation:
    """Return what is to be seen of an eager run: the values of code, on the example that it was recorded with."""
    leaves = choose_leaves(setup.tracer_kwargs, recording.opened)
    return Observation(emission.rows, leaves, setup.examples[0], training, replacements=recording.replacements)


def _check_settings(setup: Setup, recording: Recording, opened: set[str]) -> None:
    """Raise where opened code sets what a module that stays whole changes as well, as a cache that it resets."""
    inside = [write for write in recording.attribute_writes if not is_opened(recording, write, opened)]
    theirs = {(write.path, write.name): write for write in inside}
    for write in (*recording.attribute_writes, *recording.unchanged):
        other = theirs.get((write.path, write.name))
        if other is not None and is_opened(recording, write, opened):
            name = spell_attribute(write.path, write.name)
            raise TraceError(
                f"{type(setup.model).__name__} sets {name!r} at {write.where}, and {other.where} does so too, in a "
                "module that runs whole: written-out code leaves the first out. Ask for features outside of both.",
                path=shared_path(around_writes((write, other), recording)),
                reason=f"its code sets {name!r}, which a module inside changes as well",
            )


def opened_in(emission: Emission) -> set[str]:
    """List the modules whose code is written out, by path; none where the whole model runs."""
    return {"", *emission.opened} if not emission.source.runs_whole else set()


def is_opened(recording: Recording, write: AttributeWrite | AttributeRead, opened: Container[str]) -> bool:
    """Say whether it is written-out code that sets or reads an attribute."""
    return recording.module_calls[write.module_call].path in opened


def _depth(path: str) -> int:
    return len(path.split(".")) if path else 0


def to_run(setup: Setup, recording: Recording) -> nn.Module:
    """Return the model, or a copy where it writes to its parameters, which nothing puts back."""
    return copy.deepcopy(setup.model) if recording.writes_parameters else setup.model


def _around_implicit_inputs(recording: Recording) -> str:
    """Return the smallest module around those that hand something on in Python and those that get it.

    Where no other module is known to be concerned than the one that changes, its caller is.
    """
    paths = [path for path, _ in recording.changed_attributes] + around_writes(recording.attribute_writes, recording)
    shared = shared_path(paths)
    return shared if shared not in paths else shared.rpartition(".")[0]


def around_writes(writes: Iterable[AttributeWrite], recording: Recording) -> list[str]:
    """List the modules of which attributes are set, and those whose code sets them."""
    return [path for write in writes for path in (write.path, recording.module_calls[write.module_call].path)]


def shared_path(paths: Iterable[str]) -> str:
    """Return the path of the smallest module around some others."""
    levels = zip(*(path.split(".") for path in paths), strict=False)
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, levels)
    return ".".join(parts[0] for parts in shared)


def _name_implicit_inputs(recording: Recording) -> str:
    names = [(write.path, write.name) for write in recording.attribute_writes] or list(recording.changed_attributes)
    shown = dict.fromkeys(spell_attribute(path, name) for path, name in names)
    return ", ".join(list(shown)[:3]) or "in a list, a dict or a global that they share"


def _reaches(model: nn.Module, opened: set[str], mutated: frozenset[int]) -> bool:
    """Say whether opened modules hold any of what a call mutated, in closures, tuples or objects."""
    if not mutated:
        return False
    state = PythonState()
    state.take_modules([model.get_submodule(path) for path in opened], others=list(model.modules()))
    return state.reaches(mutated)
