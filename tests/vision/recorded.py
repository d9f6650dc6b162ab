"""Recordings of small models."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from fxfeat.ir.recording import Recording
from fxfeat.trace.setup import read_setup, record_mode


def record_small(model: nn.Module, inputs: Any) -> Recording:
    return record_mode(read_setup(model, None, None, inputs), False)


def calls(recording: Recording) -> dict[str, fx.Node]:
    """Map each call by the module's path, or by the name of its node."""
    return {str(node.target) if node.op == "call_module" else node.name: node for node in recording.nodes}
