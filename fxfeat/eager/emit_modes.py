"""Emit the code of both modes, of which one may hand on something to the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

from torch import nn

from fxfeat.eager.between_modes import Mode, check_modes
from fxfeat.eager.emit_request import emit_request
from fxfeat.errors import FxfeatError, NodeNotFoundError, TraceError
from fxfeat.ir.emission import Emission, ModeVariants
from fxfeat.isolation.own_modes import find_unlike
from fxfeat.names.record_named import record_named
from fxfeat.names.several import Request
from fxfeat.opening.choose_taps import choose_taps
from fxfeat.passes.left_out import list_state, state_to_keep
from fxfeat.trace.setup import Setup


def emit_modes(setup: Setup, requests: dict[bool, Request], flatten: bool) -> ModeVariants:
    """Emit the code of both modes, and of the mixture that the model's modules are in if they are in one.

    Args:
        setup: the model and how to record it.
        requests: what is asked for in train mode and in eval mode; one object where that is the same.
        flatten: write every module out down to the leaves.

    Raises:
        NodeNotFoundError: for a name that neither mode has, or that a mode lacks which was asked for it.
        TraceError: for a step that cannot be written out.
    """
    current = setup.model.training
    forms: dict[bool, Emission | FxfeatError] = {}
    for training in (current, not current):
        try:
            forms[training] = emit_request(setup, training, requests[training], flatten)
        except (NodeNotFoundError, TraceError) as error:
            forms[training] = error
    _check_forms(forms[current], forms[not current], requests[True] is requests[False])
    _tap_what_modes_hand_on(setup, requests, flatten, forms)
    _keep_state_of_each_other(setup, requests, flatten, forms)
    mixed = emit_request(setup, None, requests[current], flatten) if _is_mixed(setup.model) else None
    return ModeVariants(forms[True], forms[False], mixed)


def _tap_what_modes_hand_on(
    setup: Setup, requests: dict[bool, Request], flatten: bool, forms: dict[bool, Emission | FxfeatError]
) -> None:
    """Leave modules whole in both modes by which one mode hands something on to the other in Python."""
    emissions = {training: form for training, form in forms.items() if isinstance(form, Emission)}
    if len(emissions) < len(forms) or not any(map(_is_written_out, forms.values())):
        return
    try:
        recordings = {training: record_named(setup, training, requests[training]) for training in emissions}
    except TraceError:
        return  # one mode runs whole as it cannot be recorded

    def attempt(tapped: Mapping[str, str]) -> None:
        for training in (True, False) if tapped else ():
            emissions[training] = emit_request(setup, training, requests[training], flatten, tapped=tapped)
        train, evaluation = (Mode(training, recordings[training], emissions[training]) for training in (True, False))
        if "" not in tapped:
            check_modes(setup, train, evaluation)
            check_modes(setup, evaluation, train)

    attempt({}) if setup.engine == "code" else choose_taps(attempt)
    forms.update(emissions)


def _is_written_out(form: Emission | FxfeatError) -> TypeGuard[Emission]:
    """Say whether a mode has code, of which the whole model is no part."""
    return isinstance(form, Emission) and not form.source.runs_whole


def _keep_state_of_each_other(
    setup: Setup, requests: dict[bool, Request], flatten: bool, forms: dict[bool, Emission | FxfeatError]
) -> None:
    """Emit again where a mode leaves out updates of what the other uses, as of averages that only one reads."""
    for training, other in ((True, forms[False]), (False, forms[True])):
        form = forms[training]
        if not isinstance(form, Emission) or not isinstance(other, Emission):
            return
        state = _state_to_keep(setup, training, requests[training], form, other)
        if state:
            forms[training] = emit_request(setup, training, requests[training], flatten, kept=state)


def _state_to_keep(setup: Setup, training: bool, request: Request, form: Emission, other: Emission) -> frozenset[str]:
    try:
        recording = record_named(setup, training, request)
    except TraceError:  # the model runs whole as it cannot be recorded
        return (
            list_state((name for name, _ in setup.model.named_buffers(remove_duplicate=False)), other)
            if any(call.stops for call in form.tapped)
            else frozenset()
        )
    return state_to_keep(recording, form, other)


def _check_forms(current: Emission | FxfeatError, other: Emission | FxfeatError, is_one_request: bool) -> None:
    """Raise the error of a mode that is to be had now; what one mode lacks is missed where that mode is used.

    A model may leave out layers at random, and whole branches in one of its modes.
    """
    if isinstance(current, TraceError) or (isinstance(current, FxfeatError) and isinstance(other, FxfeatError)):
        raise current
    for form in (current, other):
        if isinstance(form, NodeNotFoundError) and not is_one_request:
            raise form


def _is_mixed(model: nn.Module) -> bool:
    """Say whether modules are in other modes than the model's own ``train`` or ``eval`` puts them in."""
    unlike = find_unlike(model).get("train()" if model.training else "eval()", ())
    modules = model.named_modules(remove_duplicate=False)
    return any((module.training != model.training) != (path in unlike) for path, module in modules)
