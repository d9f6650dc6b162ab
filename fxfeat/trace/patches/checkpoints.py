"""Refuse to write out checkpoints that do more than to compute once: written-out code does not compute again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils import checkpoint

from fxfeat.ir.guard import Unsupported
from fxfeat.ir.node_meta import meta_of
from fxfeat.trace.builder.trace import Trace
from fxfeat.trace.builder.unsupported import current_line
from fxfeat.trace.patches.replacement import Replacement

_GENERATORS = ("_checkpoint_without_reentrant_generator_impl", "_checkpoint_without_reentrant_generator")


def checkpointing(trace: Trace) -> Iterator[Replacement]:
    """Yield what sees where a checkpoint begins and ends that is not reentrant; torch names it by its release."""
    name = next(name for name in _GENERATORS if hasattr(checkpoint, name))
    plain = getattr(checkpoint, name)

    def entered(*args: Any, **kwargs: Any) -> Iterator[Any]:
        live, start = trace.calls.live_here, trace.numbering.position
        yield from plain(*args, **kwargs)
        if live:
            _check(trace, start)

    yield checkpoint, name, entered


def enter_reentrant(trace: Trace, function: Callable[..., Any], *args: Any) -> Any:
    """Run what a reentrant checkpoint computes, which eager mode does without gradients the first time."""
    _refuse(trace, trace.numbering.position, "computes without gradients in a reentrant checkpoint")
    return function(*args)


def _check(trace: Trace, start: int) -> None:
    state = trace.memory.persistent
    inside = (meta for meta in map(meta_of, trace.graph.nodes) if meta.position >= start)
    if any((meta.writes | meta.in_training) & state for meta in inside):
        _refuse(trace, start, "updates buffers in a checkpoint, and again when that is computed a second time")


def _refuse(trace: Trace, start: int, what: str) -> None:
    reason = f"the code at {current_line()} {what}"
    trace.obstacles.unsupported.append(Unsupported(reason, trace.calls.owner, start))
