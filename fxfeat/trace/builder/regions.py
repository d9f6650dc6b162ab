"""The regions that calls run in, and settings of torch that code changes for what it calls."""

from __future__ import annotations

import torch
from torch import is_grad_enabled, is_inference_mode_enabled

from fxfeat.ir.node_meta import Context
from fxfeat.isolation.torch_settings import (
    attention_context,
    devices_entered,
    kernels_of_attention,
    name_changes,
    read_switches,
)
from fxfeat.trace.builder.trace import Trace
from fxfeat.trace.builder.unsupported import current_line, refuse


def contexts_in_force(trace: Trace) -> tuple[Context, ...]:
    """Return the regions that calls run in right now."""
    contexts = list(trace.settings.contexts)
    if is_inference_mode_enabled():
        contexts.append(Context(torch.inference_mode))
    elif not is_grad_enabled() and not trace.settings.never:
        contexts.append(Context(torch.no_grad))
    kernels = kernels_of_attention()
    if kernels != trace.settings.kernels:
        contexts.append(attention_context(kernels))
    return tuple(contexts)


def notice_switches(trace: Trace) -> None:
    """Refuse to write out code that sets, for what it calls, how torch computes everything."""
    now = (*read_switches(), *trace.settings.modes)
    before = trace.settings.switches.setdefault(trace.calls.owner, now)
    if now != before:
        trace.settings.switches[trace.calls.owner] = now
        refuse(trace, f"the code changes {name_changes(before, now)} before {current_line()}")


def enter_switches(trace: Trace, module_call: int) -> None:
    """Note for a module call that begins what was noticed of the settings just before."""
    switches = trace.settings.switches
    switches[module_call] = switches.get(trace.calls.owner) or (*read_switches(), *trace.settings.modes)


def notice_devices(trace: Trace) -> None:
    """Refuse to write out code that sets the default device for a module that it calls."""
    if devices_entered() != trace.settings.devices:
        refuse(trace, f"the code changes torch's default device before {current_line()}")


def refuse_on_meta(trace: Trace, enabled: bool) -> None:
    """Meta tensors take no part in autocast, so their dtypes would be wrong from here on."""
    if enabled and trace.fake_tensors.kind == "meta":
        trace.obstacles.failure = RuntimeError("autocast does not act on meta tensors")
        raise trace.obstacles.failure
