"""Refuse to write out code that asks a tensor what a graph cannot answer, or does to it what a graph cannot do."""

from __future__ import annotations

import types

from fxfeat.ir.source_lines import is_torch
from fxfeat.runtime.handlers import is_caught, may_swallow
from fxfeat.trace.builder.fakes import fake_of
from fxfeat.trace.builder.shown_texts import is_for_people
from fxfeat.trace.builder.torch_call import TorchCall
from fxfeat.trace.builder.trace import Trace
from fxfeat.trace.builder.unsupported import current_line, refuse

_QUESTIONS = {
    "_base": "asks what a tensor is a view of",
    "_is_view": "asks whether a tensor is a view",
    "is_inference": "asks whether a tensor is of inference mode",
    "_version": "asks how often a tensor was written to",
    "retains_grad": "asks whether a tensor retains its gradient",
    "grad": "asks for the gradient of a tensor",
    "_grad": "asks for the gradient of a tensor",
    "_backward_hooks": "asks for the hooks on a gradient",
}
_ACTS = {
    "requires_grad_": "has a tensor keep gradients",
    "detach_": "takes a tensor off the path of its gradient",
    "register_hook": "puts a hook on a gradient",
    "register_post_accumulate_grad_hook": "puts a hook on a gradient",
    "retain_grad": "has a tensor retain its gradient",
}
_SETS = {
    "requires_grad": "has a tensor keep gradients",
    "grad": "sets the gradient of a tensor",
    "_grad": "sets the gradient of a tensor",
    "_backward_hooks": "puts a hook on a gradient",
}
_TEXTS = ("__repr__", "__format__")


def refuse_unanswerable(trace: Trace, call: TorchCall) -> None:
    """Note that the code that is running cannot be written out, where it is the model's own that asks."""
    if not trace.calls.live:
        return
    if call.name in _TEXTS:
        frame = _asking_frame(call.caller)
        if frame is not None and not is_for_people(frame):
            refuse(trace, f"the code at {current_line()} makes a text of a tensor")
        return
    if call.name == "_make_dual":
        refuse(trace, f"the code at {current_line()} takes derivatives forward")
    refuse_in_try(trace, call.caller)
    asked, act = _what_it_asks(call), _what_it_does(call)
    if asked or act:
        node = trace.provenance.nodes.get(id(fake_of(trace, call.args[0]))) if act else None
        refuse(trace, f"the code at {current_line()} {asked or act}", acts_on=node)


def is_text_of_number(trace: Trace, call: TorchCall) -> bool:
    """Say whether opened code makes a text out of the one number that a tensor holds, and goes by it."""
    if not trace.calls.live or call.args[0].dim():
        return False
    frame = _asking_frame(call.caller)
    return frame is not None and not is_for_people(frame)


def _what_it_asks(call: TorchCall) -> str | None:
    """Say what a call asks; what torch asks for itself is of no interest."""
    if is_torch(call.caller) or call.name in ("__set__", "__delete__"):
        return None
    return _QUESTIONS.get(call.attribute or call.name)


def _what_it_does(call: TorchCall) -> str | None:
    """Say what a call does to gradients."""
    if call.attribute is not None and call.name in ("__set__", "__delete__"):
        return _SETS.get(call.attribute)
    return _ACTS.get(call.name)


def refuse_in_try(trace: Trace, frame: types.FrameType | None) -> None:
    """Note that a call may fail on another input, where the model's code catches that and goes another way."""
    if trace.obstacles.catching:
        refuse(trace, f"an error that other inputs may raise is caught around {current_line()}")
        return
    while frame is not None and not is_torch(frame):
        if may_swallow(frame) or is_caught(frame.f_code, frame.f_lasti):
            refuse(trace, f"an error that other inputs may raise is caught around {current_line()}")
            return
        frame = frame.f_back


def _asking_frame(frame: types.FrameType | None) -> types.FrameType | None:
    while frame is not None and is_torch(frame):
        frame = frame.f_back
    return frame
