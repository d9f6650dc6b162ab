"""Let values of a running model go through functions of the user's, each called as one node."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx, nn

from fxfeat.errors import RequestError, TraceError
from fxfeat.ir.feature import OpOccurrence
from fxfeat.ir.module_call import opaque_in
from fxfeat.ir.node_meta import amend, meta_of
from fxfeat.ir.tree import Steps, follow, replace_children, tensors
from fxfeat.ir.value_replacement import Replaced, Replacement
from fxfeat.runtime.replace_part import replace_part
from fxfeat.trace.builder.fakes import fake_of
from fxfeat.trace.builder.measure import storage_of
from fxfeat.trace.builder.memory import WholeCall
from fxfeat.trace.builder.nodes import add_node, nodes_from, uncounted
from fxfeat.trace.builder.operands import to_write, write_arguments
from fxfeat.trace.builder.provenance import node_of
from fxfeat.trace.builder.results import write_result
from fxfeat.trace.builder.trace import Replacing, Trace
from fxfeat.trace.proxies.sequences import RecordedTuple, plain_numbers
from fxfeat.trace.unobserved import unobserved


def read_replacements(model: nn.Module, replacements: Iterable[Replacement]) -> Replacing:
    """Say of which calls the results are replaced."""
    replacing = Replacing()
    for replacement in replacements:
        origin = replacement.origin
        if origin.path is not None:
            place = (id(model.get_submodule(origin.path)), origin.call)
            replacing.returned.setdefault(place, []).append(replacement)
            continue
        sign = origin.sign
        assert isinstance(sign, OpOccurrence)
        module = id(model.get_submodule(sign.path))
        replacing.computed.setdefault((module, sign.call, sign.function, sign.number), []).append(replacement)
    return replacing


def replace_returned(trace: Trace, module: nn.Module, number: int, index: int | None, result: Any) -> Any:
    """Replace what call ``number`` of a module returned, if that was asked for.

    Args:
        trace: the trace.
        module: the module.
        number: how often it was called before.
        index: the module call whose result a name means; None where that is written down later.
        result: what it returned.
    """
    for replacement in trace.replacing.returned.get((id(module), number), ()):
        result = _replace(trace, replacement, replacement.origin.steps, result, index)
    return result


def replace_computed(trace: Trace, occurrence: tuple[str, int], result: Any) -> Any:
    """Replace what a call of a torch function returned, if that was asked for."""
    calls = trace.calls.module_calls
    if not trace.replacing.computed or not calls:
        return result
    owner = calls[trace.calls.owner]
    place = (owner.module, count_calls(trace, owner.module, owner.index), *occurrence)
    for replacement in trace.replacing.computed.get(place, ()):
        sign = replacement.origin.sign
        assert isinstance(sign, OpOccurrence)
        result = _replace(trace, replacement, sign.steps, result, None)
    return result


def count_calls(trace: Trace, module: int, before: int) -> int:
    """Count the calls of a module before some module call, by whatever path."""
    return sum(call.module == module for call in trace.calls.module_calls[:before])


def _replace(trace: Trace, replacement: Replacement, steps: Steps, value: Any, index: int | None) -> Any:
    source = None if index is not None else _source_of(trace, value)
    with uncounted(trace):
        call, result = _go_through(trace, replacement, steps, value)
        with unobserved():
            written = to_write(trace, result)
            nodes = tuple((steps, node_of(trace, tensor)) for steps, tensor in tensors(result))
    position = trace.numbering.position
    trace.replacing.done.append(Replaced(replacement, call, index, source, written, nodes, position))
    return result


def _source_of(trace: Trace, value: Any) -> fx.Node | None:
    if isinstance(value, RecordedTuple):
        return value.node
    with unobserved():
        return node_of(trace, value) if isinstance(value, torch.Tensor) else None


def _go_through(trace: Trace, replacement: Replacement, steps: Steps, value: Any) -> tuple[fx.Node, Any]:
    """Call the function for the part of a value at some steps; return the node of the call, and the value with it."""
    if isinstance(value, torch.Tensor) and not steps:
        # What a node calls has a name.
        has_name = isinstance(replacement.function, nn.Module) or hasattr(replacement.function, "__name__")
        return _call(trace, replacement, value, None if has_name else ())
    if isinstance(value, RecordedTuple):
        len(value)  # on another input there may be more
        return _call(trace, replacement, value, steps)
    if not steps:
        return _call(trace, replacement, value, ())
    call, part = _go_through(trace, replacement, steps[1:], follow(value, steps[:1]))
    return call, replace_children(value, {steps[0]: part})


def _call(trace: Trace, replacement: Replacement, value: Any, steps: Steps | None) -> tuple[fx.Node, Any]:
    written, _ = write_arguments(trace, (value,), {})
    if opaque_in(written):
        raise TraceError(
            f"replace={{{replacement.name!r}: ...}} goes through a {opaque_in(written)[0].type_name}, which cannot be "
            f"written down as code. Name a tensor in it, as in {replacement.name + '[0]'!r}."
        )
    with WholeCall(trace, value) as effects:
        given = plain_numbers(value)
        result = replacement.function(given) if steps is None else replace_part(given, steps, replacement.function)
    if steps is None and not isinstance(result, torch.Tensor):
        raise RequestError(
            f"The function in replace={{{replacement.name!r}: ...}} returned a {type(result).__name__}; it must return "
            "the tensor that the model goes on with."
        )
    start = trace.numbering.position
    with unobserved():
        result = _write(trace, replacement, written, steps, result, effects)
    call = next(node for node in reversed(nodes_from(trace, start)) if node.op != "get_attr")
    _note_possible_writes(trace, call, value)
    return call, result


def _write(trace: Trace, replacement: Replacement, written: Any, steps: Steps | None, result: Any, effects: Any) -> Any:
    function: Any = replacement.function
    is_module = isinstance(function, nn.Module)
    if steps is None:
        op, target = ("call_module", replacement.path) if is_module else ("call_function", function)
        return write_result(trace, op, target, written, {}, result, effects)
    if is_module:
        function = add_node(trace, "get_attr", replacement.path)
    return write_result(trace, "call_function", replace_part, (*written, steps, function), {}, result, effects)


def _note_possible_writes(trace: Trace, call: fx.Node, value: Any) -> None:
    """Note that code of the user's may write to what it is given on another input, where it did not on this one."""
    with unobserved():
        given = frozenset(storage_of(fake_of(trace, tensor)) for _, tensor in tensors(value))
    unsure = given - meta_of(call).writes
    amend(call, writes=meta_of(call).writes | given, may_write=meta_of(call).may_write | unsure, constant=False)
