"""See regions of autocast, which torch functions do not show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from fxfeat.ir.node_meta import MODEL_DEVICE, Context
from fxfeat.trace.builder.regions import refuse_on_meta
from fxfeat.trace.builder.trace import Trace
from fxfeat.trace.patches.replacement import Replacement


def casting(trace: Trace) -> Iterator[Replacement]:
    """Yield what notes the regions of autocast that code enters and leaves."""
    region = torch.amp.autocast_mode.autocast
    enter, leave = region.__enter__, region.__exit__

    def noting_enter(self: Any) -> Any:
        if trace.calls.live_here:
            trace.settings.contexts.append(_context_of(self, trace.model.device.type))
            refuse_on_meta(trace, self._enabled)
        return enter(self)

    def noting_exit(self: Any, *details: Any) -> Any:
        if trace.calls.live_here and trace.settings.contexts:
            trace.settings.contexts.pop()
        return leave(self, *details)

    yield region, "__enter__", noting_enter
    yield region, "__exit__", noting_exit


def _context_of(region: Any, device_type: str) -> Context:
    device = MODEL_DEVICE if region.device == device_type else region.device
    arguments = (("device_type", device), ("dtype", region.fast_dtype), ("enabled", region._enabled))
    return Context(torch.autocast, arguments)
