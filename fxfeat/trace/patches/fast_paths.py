"""See where torch's own modules choose between plain code, which is recorded, and a kernel that rounds otherwise."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from fxfeat.ir.guard import Guard, Unsupported
from fxfeat.runtime.check import leaves_fast_path
from fxfeat.trace.builder.nodes import add_node
from fxfeat.trace.builder.operands import to_write
from fxfeat.trace.builder.trace import Trace
from fxfeat.trace.patches.replacement import Replacement
from fxfeat.trace.unobserved import unobserved

_HOMES = ("torch.nn.modules.transformer", "torch.nn.modules.activation")


def choosing_fast_paths(trace: Trace) -> Iterator[Replacement]:
    """Yield what leads opened modules of torch to their last question, and checks its answer at run time."""
    settings, autocast = torch.backends.mha.get_fastpath_enabled, torch.is_autocast_enabled
    overrides = torch.overrides.has_torch_function

    def answering(function: Callable[..., bool], answer: bool) -> Callable[..., bool]:
        def called(*args: Any) -> bool:
            return answer if _asks(trace, sys._getframe(1)) else function(*args)

        return called

    def has_torch_function(tensors: Any) -> bool:
        frame = sys._getframe(1)
        if _asks(trace, frame):
            with unobserved():
                _note_choice(trace, frame.f_locals["self"], tensors)
        return overrides(tensors)

    yield torch.backends.mha, "get_fastpath_enabled", answering(settings, True)
    yield torch, "is_autocast_enabled", answering(autocast, False)
    yield torch.overrides, "has_torch_function", has_torch_function


def _asks(trace: Trace, frame: types.FrameType) -> bool:
    in_forward = frame.f_code.co_name == "forward" and frame.f_globals.get("__name__") in _HOMES
    return in_forward and trace.calls.live_here


def _note_choice(trace: Trace, module: nn.Module, tensors: tuple[torch.Tensor | None, ...]) -> None:
    written = to_write(trace, tensors)
    trained = any(isinstance(tensor, nn.Parameter) and tensor.requires_grad for tensor in tensors)
    where, hooked = type(module).__name__, isinstance(module, nn.TransformerEncoderLayer)
    if trained and trace.settings.gradients:
        node = add_node(trace, "call_function", leaves_fast_path, written, value=True, counted=False)
        source = "gradients or autocast are on"
        place = trace.calls.owner, trace.numbering.position
        trace.decisions.guards.append(Guard(node, True, where, source, *place, hooked))
        return
    reason = f"{where} of torch runs on its fast path, which rounds otherwise than its code"
    trace.obstacles.unsupported.append(
        Unsupported(reason, trace.calls.owner, trace.numbering.position, hooks_settle=hooked)
    )
