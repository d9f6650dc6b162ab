"""Emit the code of one mode for values asked for by name; what cannot be written out runs whole, and is tapped."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from fxfeat.eager.checked import Checked
from fxfeat.eager.emit_checked import emit_checked, emit_in_train_mode
from fxfeat.eager.implicit_inputs import MakeDraft
from fxfeat.eager.stopping import leaves_undone
from fxfeat.eager.tap_recorded import tap_recorded
from fxfeat.eager.tap_unrecorded import tap_unrecorded
from fxfeat.errors import TraceError
from fxfeat.ir.draft import Draft
from fxfeat.ir.emission import Emission, Source, list_tapped
from fxfeat.ir.engine import Engine
from fxfeat.ir.recording import Recording
from fxfeat.isolation.entry_points import FORWARD
from fxfeat.names.record_named import record_named, select_features
from fxfeat.names.several import Request
from fxfeat.opening.choose_taps import choose_taps, warn_of
from fxfeat.passes.left_out import memory_of_state
from fxfeat.trace.copied_recording import are_clear
from fxfeat.trace.setup import Setup, trace_each_mode


def emit_request(
    setup: Setup,
    training: bool | None,
    request: Request,
    flatten: bool = False,
    on_model: bool = False,
    kept: frozenset[str] = frozenset(),
    tapped: Mapping[str, str] = MappingProxyType({}),
) -> Emission:
    """Emit the code for values asked for by name.

    Args:
        setup: the model and how to record it.
        training: the mode.
        request: the names by key.
        flatten: write every module out down to the leaves.
        on_model: write code that runs on the model's own tree of modules.
        kept: parameters and buffers to keep up, by path, whether or not these values need them.
        tapped: modules that are to stay whole, by path, with the reasons.

    Raises:
        NodeNotFoundError: for a name that the model does not have in this mode.
        TraceError: for a step that cannot be written out.
    """
    how = How(flatten, on_model, kept, not on_model, tuple(tapped.items()))
    emission = _emit_once(setup, training, request, how)
    if leaves_undone(setup, training, emission):
        return _emit_once(setup, training, request, dataclasses.replace(how, may_stop=False))
    return emission


@dataclasses.dataclass(frozen=True)
class How:
    """How code is written: its arguments are those of ``emit_request``; ``may_stop`` lets modules be stopped early."""

    flatten: bool
    on_model: bool
    kept: frozenset[str]
    may_stop: bool
    tapped: tuple[tuple[str, str], ...]


def _emit_once(setup: Setup, training: bool | None, request: Request, how: How) -> Emission:
    if setup.engine == "tap":
        return _emit_whole(setup, training, request, "engine='tap' was asked for", how)

    def attempt(tapped: Mapping[str, str]) -> Emission:
        if "" in tapped:
            return _emit_whole(setup, training, request, tapped[""], how)

        def make(recording: Recording) -> Draft:
            recording = dataclasses.replace(recording, kept=memory_of_state(recording, how.kept))
            draft = Draft(recording, recording.graph, select_features(recording, request), flatten=how.flatten)
            return dataclasses.replace(draft, on_model=how.on_model, tapped=tapped, may_stop=how.may_stop)

        return _emit_code(setup, training, request, make, dataclasses.replace(how, tapped=tuple(tapped.items())))

    return attempt({}) if setup.engine == "code" else choose_taps(attempt, dict(how.tapped))


def _emit_code(setup: Setup, training: bool | None, request: Request, make: MakeDraft, how: How) -> Emission:
    """Emit the code of a mode; once for both where the model does the same in both."""
    recording = record_named(setup, training, request)
    if recording.derived and not are_clear(recording, make(recording).features):
        setup = trace_each_mode(setup)
        recording = record_named(setup, training, request)
    if recording.derived:
        with contextlib.suppress(TraceError):
            evaluation = _check(setup, record_named(setup, False, request), False, request, make, how)
            emission = emit_in_train_mode(setup, evaluation, make)
            if emission is not None:
                return emission
    return _check(setup, recording, training, request, make, how).emission


def _check(
    setup: Setup, recording: Recording, training: bool | None, request: Request, make: MakeDraft, how: How
) -> Checked:
    """Emit once what is asked for again; the request is kept, so that its identity stays its own."""
    key = (training, id(request), how)
    if key not in setup.checked:
        _, other = setup.checked.get((not training, id(request), how), (request, None))
        setup.checked[key] = request, emit_checked(setup, recording, training, make, other)
    return setup.checked[key][1]


def warn_of_taps(engine: Engine, model: str, *sources: Source) -> None:
    """Say which modules emitted code runs whole, unless that was asked for."""
    if engine != "tap":
        warn_of(list_tapped(*sources), model)


def _emit_whole(setup: Setup, training: bool | None, request: Request, reason: str, how: How) -> Emission:
    """Emit code that runs the whole model and taps it."""
    if setup.method != FORWARD:
        raise TraceError(
            f"{type(setup.model).__name__} runs whole, which only its forward can: {reason}. So there is no extractor "
            f"of {setup.method!r} here; ask for features outside of what cannot be written out."
        )
    if setup.replace:
        raise TraceError(
            f"{type(setup.model).__name__} runs whole, and nothing can be replaced inside what does: {reason}. Put a "
            "forward hook that returns the other value on the model before the extractor is made, or replace a value "
            "outside."
        )
    try:
        recording = record_named(setup, training, request)
    except TraceError as error:
        if error.path is None:
            raise
        return tap_unrecorded(setup, training, request, reason, error, how.on_model, how.may_stop, how.kept)
    recording = dataclasses.replace(recording, kept=memory_of_state(recording, how.kept))
    features = list(select_features(recording, request))
    return tap_recorded(recording, features, setup.examples[0], reason, how.on_model, how.may_stop)
