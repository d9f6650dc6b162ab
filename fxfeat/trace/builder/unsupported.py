"""Note what about the running code cannot be written out."""

from __future__ import annotations

from torch import fx

from fxfeat.ir.guard import AttributeWrite, Unsupported
from fxfeat.ir.node_meta import Storage
from fxfeat.ir.source_lines import model_line
from fxfeat.trace.builder.trace import Trace


def current_line() -> str:
    """Say where in the model's code the trace is."""
    where, source = model_line()
    return f"{where}: `{source}`"


def refuse(trace: Trace, reason: str, memory: frozenset[Storage] = frozenset(), acts_on: fx.Node | None = None) -> None:
    """Note that the code that is running cannot be written out from here on."""
    owner, position = trace.calls.owner, trace.numbering.position
    trace.obstacles.unsupported.append(Unsupported(reason, owner, position, memory, acts_on=acts_on))


def refuse_from_the_start(trace: Trace, reason: str) -> None:
    """Note that the model's code cannot be written out at all."""
    trace.obstacles.unsupported.append(Unsupported(reason, 0, 0))


def refuse_after_escape(trace: Trace, call: str) -> None:
    """Refuse to write out code that follows from a value which a call takes out of torch."""
    trace.obstacles.escapes.append(f"`{call}` at {model_line()[0]}")
    refuse(trace, f"a value leaves torch at {current_line()}, so what follows from it cannot be written down")


def note_attribute_write(trace: Trace, path: str, name: str, is_setting: bool = False) -> None:
    """Note that the running code changes something about a module, which matters to later calls of it."""
    if trace.calls.opened:
        trace.obstacles.attribute_writes.append(_describe_write(trace, path, name, is_setting))


def note_unchanged(trace: Trace, path: str, name: str, is_setting: bool = False) -> None:
    """Note that the running code sets an attribute to what it is, which other code may have changed on another run."""
    if trace.calls.opened:
        trace.obstacles.unchanged.append(_describe_write(trace, path, name, is_setting))


def _describe_write(trace: Trace, path: str, name: str, is_setting: bool) -> AttributeWrite:
    return AttributeWrite(path, name, trace.calls.owner, trace.numbering.position, current_line(), is_setting)
