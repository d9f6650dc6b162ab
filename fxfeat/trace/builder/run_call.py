"""Run a torch function on fake tensors, and take down what it did to memory."""

from __future__ import annotations

import operator
from typing import Any

import torch

from fxfeat.analysis.aliases import COPIES_OR_NOT, Tie
from fxfeat.analysis.effects import written_by
from fxfeat.ir.node_meta import RNG, Storage
from fxfeat.ir.source_lines import is_assertion, model_line
from fxfeat.ir.tree import leaves_of, tensors
from fxfeat.trace.builder.fakes import adopt_result, holds_value
from fxfeat.trace.builder.function_memo import key_of_call, recall_call, remember_call
from fxfeat.trace.builder.measure import storage_of, version_of
from fxfeat.trace.builder.memory import changed_since, note_versions, notice_unseen_writes
from fxfeat.trace.builder.operands import to_run
from fxfeat.trace.builder.trace import Effects, Trace
from fxfeat.trace.builder.unsupported import current_line

EXACT = {
    "__len__": len,
    "__bool__": bool,
    "__int__": int,
    "__float__": float,
    "__index__": operator.index,
    "__complex__": complex,
}
"""Methods by which Python takes a plain value out of a tensor, and the functions that call them."""

ESCAPES = ("numpy", "__array__", "__dlpack__", "__array_wrap__")
"""Methods that hand a tensor's memory to code outside torch."""


def run_call(trace: Trace, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Effects]:
    """Run a torch function on fake tensors; return its result, and what it read, wrote and drew."""
    args, kwargs = to_run(trace, tuple(args)), to_run(trace, dict(kwargs))
    given = [value for value in leaves_of((args, kwargs)) if isinstance(value, torch.Tensor)]
    versions = [version_of(tensor) for tensor in given]
    notice_unseen_writes(trace, given, versions)
    # Before the call: `x.data = y` takes the memory of x away.
    writes = _announced_writes(trace, function, args, kwargs, given)
    result = _call(trace, function, args, kwargs)
    writes |= changed_since(given, versions) | trace.memory.draws.written
    writes |= {trace.memory.wrapping[memory] for memory in writes if memory in trace.memory.wrapping}
    returned = [tensor for _, tensor in tensors(result)]
    note_versions(trace, [*given, *returned], writes)
    effects = _take_down(trace, {storage_of(tensor) for tensor in given}, writes)
    for tensor in returned:
        adopt_result(trace, tensor)
    if getattr(function, "__name__", "") in COPIES_OR_NOT:
        memory = frozenset({*effects.reads, *map(storage_of, returned)} - {RNG})
        trace.memory.ties.append(Tie(trace.numbering.position, memory))
    return result, effects


def _announced_writes(
    trace: Trace, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], given: list[torch.Tensor]
) -> set[Storage]:
    """List the memory that a call writes to by its name or its schema."""
    writes = {storage_of(tensor) for tensor in written_by(function, args, kwargs)}
    if getattr(function, "__name__", "") in ESCAPES:
        # An array looks at the tensor's memory, and nothing shows what is done to it.
        writes |= {storage_of(tensor) for tensor in given} - trace.memory.persistent
    return writes


def _call(trace: Trace, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    draws = trace.memory.draws
    draws.seen, draws.tells, draws.sizes, draws.written = False, False, False, set()
    name = getattr(function, "__name__", "")
    try:
        if name in ("item", "tolist", "int", "float", *EXACT, *ESCAPES) and holds_value(trace, args[0]):
            # The value of a parameter, a buffer or a constant is there to be read.
            args = (trace.fakes.originals[id(args[0])], *args[1:])
        key = key_of_call(trace, function, args, kwargs)
        recalled = recall_call(key) if key is not None else None
        if recalled is not None:
            return recalled
        with draws:
            result = trace.fake_tensors.call(function, args, kwargs)
        if key is not None:
            remember_call(trace, key, (args, kwargs), result)
        return result
    except Exception as error:
        trace.obstacles.failure = error
        trace.obstacles.caught = "" if trace.calls.live else current_line()
        raise


def _take_down(trace: Trace, reads: set[Storage], writes: set[Storage]) -> Effects:
    trace.memory.written |= writes
    effects = Effects(reads, writes, sized_by_data=trace.memory.draws.sizes)
    if trace.memory.draws.seen:
        effects.note_draw()
    if trace.memory.draws.tells and not is_assertion(model_line()[1]):
        trace.decisions.goes_by_values = True
    trace.memory.effects.add(effects)
    return effects
