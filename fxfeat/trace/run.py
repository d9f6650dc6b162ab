"""Record what a model does, on the cheapest fake tensors that its code can work with."""

from __future__ import annotations

import dataclasses
import functools
import gc
import inspect
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn

from fxfeat.analysis.aliases import widen_writes
from fxfeat.errors import FxfeatError, GuardError, TraceError
from fxfeat.ir.assumptions import AS_IT_IS, Assumptions
from fxfeat.ir.example import Example
from fxfeat.ir.guard import AttributeRead
from fxfeat.ir.node_meta import RNG, CallPath, Storage, meta_of
from fxfeat.ir.recording import Kind, Recording
from fxfeat.ir.value_replacement import Replacement
from fxfeat.trace.builder.measure import storage_of
from fxfeat.trace.builder.memory import all_written, writes_to
from fxfeat.trace.builder.trace import Trace
from fxfeat.trace.fake_tensors import Originals, Recast, fake_tensors
from fxfeat.trace.leaves import Leaves
from fxfeat.trace.run_once import Conditions, Run, run_once

KINDS: tuple[Kind, ...] = ("meta", "fake", "real")


OTHER_INPUTS = " If it needs other inputs, pass example_inputs=."
"""What is said where a model does not run on an example; wrong where it does as it is."""


def record(
    model: nn.Module,
    example: Example,
    leaves: Leaves,
    training: bool | None = None,
    kinds: tuple[Kind, ...] = KINDS,
    recast: Recast | None = None,
    assumptions: Assumptions = AS_IT_IS,
    replacements: tuple[Replacement, ...] = (),
) -> Recording:
    """Record one run of ``model``, on the cheapest fake tensors that its code can work with.

    Args:
        model: the model; it comes back as it was.
        example: the arguments to run it with.
        leaves: what to call rather than to enter.
        training: the mode to put the whole model in first; None leaves every flag as it is.
        kinds: which fake tensors to try, in this order.
        recast: dtypes to give fake tensors in place of their originals'.
        assumptions: what to tell code that reads numbers out of tensors, or asks about gradients.
        replacements: values that go through functions.

    Raises:
        TraceError: where the model fails on all of them.
    """
    error: BaseException | None = None
    for kind, grad in (*((kind, True) for kind in kinds), *((kind, False) for kind in kinds)):
        if not (grad or _is_about_gradients(error)):
            break
        try:
            with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
                conditions = Conditions(
                    fake_tensors(kind, recast), training, grad, assumptions, replacements=replacements
                )
                given = example.fill() if kind == "real" and example.fill is not None else example
                return _record_once(model, given, leaves, conditions, recast)
        except GuardError as failure:
            error = failure  # of an extractor that the model holds, or is
        except FxfeatError:
            raise
        except Exception as failure:
            error = failure
    mode = {True: " in train mode", False: " in eval mode", None: ""}[training]
    raise TraceError(
        f"{type(model).__name__} could not be recorded{mode} with inputs {describe_example(example)}: "
        f"{type(error).__name__}: {_first_line(error)}.{OTHER_INPUTS}",
        path="",
        reason=f"{type(error).__name__}: {_first_line(error)}",
    ) from error


def _is_about_gradients(error: BaseException | None) -> bool:
    """Say whether a run failed as what it calls has no gradient: it may run where none is asked for."""
    return any(word in str(error) for word in ("backward", "requires_grad", "no_grad"))


def watch(
    model: nn.Module,
    example: Example,
    leaves: Leaves,
    call_paths: frozenset[CallPath],
    replacements: tuple[Replacement, ...] = (),
) -> dict[CallPath, Any]:
    """Run ``model`` eagerly and copy the values of some nodes of its recording at the moment they are produced.

    Args:
        model: the model, in the mode to run it in; it comes back as it was.
        example: the arguments to run it with.
        leaves: what was called rather than entered when the call paths were recorded.
        call_paths: call paths of nodes in that recording.
        replacements: values that go through functions.

    Returns:
        The values by call path. One that this run does not reach is missing.
    """
    grad = torch.is_grad_enabled()
    conditions = Conditions(Originals(), None, grad, watched=call_paths, replacements=replacements)
    return run_once(model, example, leaves, conditions).trace.watch.values


def _first_line(error: BaseException | None) -> str:
    return (str(error).strip().splitlines() or [""])[0].rstrip(".")


def describe_example(example: Example) -> str:
    """Spell an example's shapes.

    >>> describe_example(Example((torch.zeros(1, 2),), {"flag": True}))
    '((1, 2) float32, flag=True)'
    """
    shown = [_describe(value) for value in example.args]
    shown += [f"{name}={_describe(value)}" for name, value in example.kwargs.items()]
    return f"({', '.join(shown)})"


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_describe(part) for part in value)}]"
    return repr(value) if isinstance(value, (int, float, bool, str, type(None))) else type(value).__name__


def _record_once(
    model: nn.Module, example: Example, leaves: Leaves, conditions: Conditions, recast: Recast | None
) -> Recording:
    kind = conditions.fake_tensors.kind
    run = run_once(model, example, leaves, conditions)
    if run.draws_unseen:
        conditions = dataclasses.replace(conditions, fake_tensors=fake_tensors(kind, recast), closely=True)
        run = run_once(model, example, leaves, conditions)
    if not all_written(run.trace).isdisjoint(run.trace.memory.strangers):
        # The code wrote to a tensor that it made in a way that no mode shows, or that it found somewhere.
        alive = [value for value in gc.get_objects() if issubclass(type(value), torch.Tensor)]
        existing = frozenset(map(id, alive))
        conditions = dataclasses.replace(conditions, fake_tensors=fake_tensors(kind, recast), existing=existing)
        run = run_once(model, example, leaves, conditions)
    if run.trace.obstacles.failure is not None and kind != "real":
        # The model's own code caught it and went another way than it would on real tensors.
        raise run.trace.obstacles.failure
    _check_that_calls_return(run.trace)
    _widen_writes(model, run.trace)
    return _finish(model, leaves, run, conditions)


def _check_that_calls_return(trace: Trace) -> None:
    """Raise where a module is called again after a call that raised: hooks see, and names count, those that return."""
    calls = trace.calls.module_calls
    returning = {call.module for call in calls if call.stop >= 0}
    raised = next((call.path for call in calls if call.stop < 0 and call.module in returning), None)
    if raised is not None:
        raise RuntimeError(f"its code goes on after a call of {raised!r} that raised an error")


def _widen_writes(model: nn.Module, trace: Trace) -> None:
    branches = {guard.module_call for guard in trace.decisions.guards if not guard.asserts}
    deciding = branches | {unsupported.module_call for unsupported in trace.obstacles.unsupported}
    widen_writes(model, trace.graph, tuple(trace.calls.module_calls), deciding, trace.memory.ties)


def _finish(model: nn.Module, leaves: Leaves, run: Run, conditions: Conditions) -> Recording:
    trace = run.trace
    decisions, obstacles, module_calls = trace.decisions, trace.obstacles, tuple(trace.calls.module_calls)
    return Recording(
        graph=trace.graph,
        module_calls=module_calls,
        guards=tuple(decisions.guards),
        result=module_calls[0].result,
        kind=trace.fake_tensors.kind,
        training=run.training,
        root=model,
        tensors=dict(trace.provenance.constants),
        persistent=frozenset(trace.memory.persistent),
        opened=leaves.opened,
        signature=inspect.signature(model.forward),
        dtype_reads=tuple(decisions.dtype_reads),
        unsupported=tuple(obstacles.unsupported),
        attribute_writes=tuple(obstacles.attribute_writes),
        unchanged=tuple(obstacles.unchanged),
        attribute_reads=tuple(_reads_of_settings(trace, model, run.changed)),
        changed_attributes=tuple(run.changed),
        mutated=run.mutated,
        writes_state=_writes_state(trace, run.changed) or _has_scripts(model),
        reads_values=frozenset(decisions.reads_values),
        asks_gradients=decisions.asks_gradients,
        answers=tuple(decisions.answers),
        holds_iterators=run.holds_iterators,
        writes_parameters=writes_to(trace, model.parameters()),
        replacements=conditions.replacements,
        replaced=tuple(trace.replacing.done),
        state=_memory_of_state(trace),
        same_in_training=conditions.training is False and _is_same_in_training(trace),
    )


def _memory_of_state(trace: Trace) -> dict[str, Storage]:
    copies, state = trace.fakes.copies, trace.model.state
    return {path: storage_of(copies[key]) for key, (path, _) in state.items() if key in copies}


def _is_same_in_training(trace: Trace) -> bool:
    """Say whether nothing else is done with what modules write to in train mode only."""
    if not trace.decisions.same_in_training or trace.fake_tensors.kind != "meta":
        return False
    metas = list(map(meta_of, trace.graph.nodes))
    statistics = frozenset[Storage]().union(*(meta.in_training - meta.aliases for meta in metas)) - {RNG}
    others = (meta for meta in metas if not meta.in_training)
    return all(statistics.isdisjoint(meta.reads | meta.writes | meta.aliases) for meta in others)


def _writes_state(trace: Trace, changed: Collection[tuple[str, str]]) -> bool:
    """Say whether code wrote to what the model keeps besides attributes, or may on other values of the same sizes.

    On fake tensors without values no decision was taken on one; a write that is guessed needs another size or dtype.
    """
    goes_by_values = trace.decisions.goes_by_values or trace.obstacles.escapes
    if (trace.fake_tensors.kind == "real" and goes_by_values) or any(trace.memory.rebound.values()):
        return True
    if any((write.path, write.name) not in changed for write in trace.obstacles.attribute_writes):
        return True
    return bool(all_written(trace) & trace.memory.persistent)


def _reads_of_settings(trace: Trace, model: nn.Module, changed: Collection[tuple[str, str]]) -> Iterator[AttributeRead]:
    """Yield the reads of attributes that the model's own code left as they were: they do not count or cache.

    A child that is called says by that what it is.
    """
    called, module_at = {call.module for call in trace.calls.module_calls}, functools.cache(model.get_submodule)
    for read in trace.decisions.reads.values():
        reading = read.reading
        children = module_at(reading.path)._modules
        if reading.name in children and id(children[reading.name]) in called:
            continue
        # What classes and files hold is listed under the model's own path.
        if (reading.path, reading.name) not in changed and ("", reading.name) not in changed:
            yield read


def _has_scripts(model: nn.Module) -> bool:
    """Say whether code in C++ runs, whose writes no one sees."""
    return any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
