"""What calls write to the memory of tensors, and what torch does not show of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from fxfeat.ir.node_meta import Storage, meta_of
from fxfeat.ir.tree import tensors
from fxfeat.trace.builder.fakes import fake_of
from fxfeat.trace.builder.measure import storage_of, version_of
from fxfeat.trace.builder.trace import Effects, Trace
from fxfeat.trace.builder.unsupported import current_line, refuse
from fxfeat.trace.unobserved import unobserved


class WholeCall:
    """A region in which calls run on fake tensors and are not written down, but for their effects.

    What compiled code writes to what it is given counts too. A generator would take longer than most calls do.
    """

    def __init__(self, trace: Trace, given: Any) -> None:
        """Begin with what the call is given."""
        self._trace = trace
        with unobserved():
            self._fakes = [fake_of(trace, tensor) for _, tensor in tensors(given)]
            self._versions = [version_of(fake) for fake in self._fakes]

    def __enter__(self) -> Effects:
        """Return what the effects of the call are noted in."""
        memory = self._trace.memory
        self._outer, memory.effects = memory.effects, Effects()
        self._trace.calls.whole_depth += 1
        return memory.effects

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        """Note what was written to, and hand the effects on to a whole call around this one."""
        memory, calls = self._trace.memory, self._trace.calls
        if kind is None:
            self._note_writes()
        calls.whole_depth -= 1
        inner, memory.effects = memory.effects, self._outer
        if calls.whole_depth:
            memory.effects.add(inner)

    def _note_writes(self) -> None:
        memory = self._trace.memory
        with unobserved():
            changed = changed_since(self._fakes, self._versions)
        memory.effects.writes |= changed
        for storage in changed:
            memory.versions.pop(storage, None)


def changed_since(given: list[torch.Tensor], versions: list[int]) -> set[Storage]:
    """List the memory of tensors whose versions are no longer what they were."""
    return {storage_of(tensor) for tensor, old in zip(given, versions, strict=True) if version_of(tensor) != old}


def notice_unseen_writes(trace: Trace, given: list[torch.Tensor], versions: list[int]) -> None:
    """Refuse to write out code that writes in a way that torch functions do not show, such as ``z.imag = x``."""
    seen = trace.memory.versions
    for tensor, version in zip(given, versions, strict=True):
        if seen.get(storage_of(tensor), {}).get(id(tensor), version) != version:
            seen.pop(storage_of(tensor))
            refuse(trace, f"a tensor is written to in a way that torch does not show, before {current_line()}")


def note_versions(trace: Trace, seen: list[torch.Tensor], changed: set[Storage]) -> None:
    """Note the versions of tensors after a call that changed some memory."""
    for storage in changed:
        trace.memory.versions.pop(storage, None)
    for tensor in seen:
        trace.memory.versions.setdefault(storage_of(tensor), {})[id(tensor)] = version_of(tensor)


def all_written(trace: Trace) -> frozenset[Storage]:
    """Return the memory that code was seen to write to."""
    metas = (meta_of(node) for node in trace.graph.nodes)
    return frozenset(trace.memory.written).union(*(meta.writes - meta.may_write for meta in metas if meta.writes))


def writes_to(trace: Trace, real: Iterable[torch.Tensor]) -> bool:
    """Say whether code was seen to write to any of some tensors of the model."""
    copies = trace.fakes.copies
    fakes = [copies[id(tensor)] for tensor in real if id(tensor) in copies]
    return not all_written(trace).isdisjoint(map(storage_of, fakes))
