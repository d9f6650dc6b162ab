"""Run a model once on fake tensors and return what it did."""

from __future__ import annotations

import contextvars
import gc
import inspect
import logging
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from fxfeat.analysis.aliases import widen_writes
from fxfeat.errors import FxfeatError, TraceError
from fxfeat.inputs.examples import bind
from fxfeat.ir.assumptions import (
    AS_IT_IS,
    Assumptions,
)
from fxfeat.ir.example import Example
from fxfeat.ir.node_meta import (
    CallPath,
    Storage,
)
from fxfeat.ir.recording import (
    Kind,
    Recording,
)
from fxfeat.ir.source_lines import is_assertion
from fxfeat.ir.tree import tensors
from fxfeat.isolation.caches import fresh_caches
from fxfeat.isolation.preserved import preserved
from fxfeat.isolation.torch_settings import same_switches
from fxfeat.trace.builder.measure import storage_of
from fxfeat.trace.fake_tensors import FakeTensors, Originals, Recast, fake_tensors
from fxfeat.trace.leaves import Leaves
from fxfeat.trace.patches.module_calls import ModuleCallPatches
from fxfeat.trace.recorder import Recorder

STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
_RECORDING = threading.RLock()
KINDS: tuple[Kind, ...] = ("meta", "fake", "real")


def record(
    model: nn.Module,
    example: Example,
    leaves: Leaves,
    training: bool | None = None,
    kinds: tuple[Kind, ...] = KINDS,
    recast: Recast | None = None,
    assumptions: Assumptions = AS_IT_IS,
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

    Raises:
        TraceError: where the model fails on all of them.
    """
    error: BaseException | None = None
    for kind, grad in (*((kind, True) for kind in kinds), *((kind, False) for kind in kinds)):
        if not (grad or _is_about_gradients(error)):
            break
        try:
            with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
                return _record_once(model, example, leaves, training, kind, recast, assumptions, grad)
        except FxfeatError:
            raise
        except Exception as failure:
            error = failure
    mode = {True: " in train mode", False: " in eval mode", None: ""}[training]
    raise TraceError(
        f"{type(model).__name__} could not be recorded{mode} with inputs {describe_example(example)}: "
        f"{type(error).__name__}: {_first_line(error)}. If it needs other inputs, pass example_inputs=.",
        path="",
        reason=f"{type(error).__name__}: {_first_line(error)}",
    ) from error


def _is_about_gradients(error: BaseException | None) -> bool:
    """Say whether a run failed as what it calls has no gradient: it may run where none is asked for."""
    return any(word in str(error) for word in ("backward", "requires_grad", "no_grad"))


def watch(model: nn.Module, example: Example, leaves: Leaves, call_paths: frozenset[CallPath]) -> dict[CallPath, Any]:
    """Run ``model`` eagerly and copy the values of some nodes of its recording at the moment they are produced.

    Args:
        model: the model, in the mode to run it in; it comes back as it was.
        example: the arguments to run it with.
        leaves: what was called rather than entered when the call paths were recorded.
        call_paths: call paths of nodes in that recording.

    Returns:
        The values by call path. One that this run does not reach is missing.
    """
    recorder = Recorder(Originals(), _state_of(model), _device_of(model, example))
    recorder.watched = call_paths
    _run(recorder, model, example, leaves, None, torch.is_grad_enabled())
    return recorder.seen


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
        return f"[{', '.join(_describe(held) for held in value)}]"
    return repr(value) if isinstance(value, (int, float, bool, str, type(None))) else type(value).__name__


def _record_once(
    model: nn.Module,
    example: Example,
    leaves: Leaves,
    training: bool | None,
    kind: Kind,
    recast: Recast | None,
    assumptions: Assumptions,
    grad: bool,
) -> Recording:
    recorder = _prepare(model, example, fake_tensors(kind, recast), assumptions)
    mode, changed, mutated = _run(recorder, model, example, leaves, training, grad)
    if not recorder.all_written().isdisjoint(recorder.strangers):
        # The code wrote to a tensor that it made in a way that no mode shows, or that it found somewhere.
        there = [held for held in gc.get_objects() if issubclass(type(held), torch.Tensor)]
        recorder = _prepare(model, example, fake_tensors(kind, recast), assumptions)
        recorder.there = frozenset(map(id, there))
        mode, changed, mutated = _run(recorder, model, example, leaves, training, grad)
    if recorder.failure is not None and kind != "real":
        # The model's own code caught it and went another way than it would on real tensors.
        raise recorder.failure
    branches = [guard for guard in recorder.guards if not is_assertion(guard.source)]
    deciding = {*(guard.module_call for guard in branches), *(held.module_call for held in recorder.unsupported)}
    widen_writes(model, recorder.graph, tuple(recorder.module_calls), deciding, recorder.ties)
    return Recording(
        graph=recorder.graph,
        module_calls=tuple(recorder.module_calls),
        guards=tuple(recorder.guards),
        result=recorder.module_calls[0].result,
        kind=kind,
        training=mode,
        root=model,
        tensors=dict(recorder.constants),
        persistent=frozenset(recorder.persistent),
        opened=leaves.opened,
        signature=inspect.signature(model.forward),
        dtype_reads=tuple(recorder.dtype_reads),
        unsupported=tuple(recorder.unsupported),
        attribute_writes=tuple(recorder.attribute_writes),
        changed_attributes=tuple(changed),
        mutated=mutated,
        writes_state=_writes_state(recorder, changed) or _has_scripts(model),
        reads_values=recorder.reads_values,
        asks_gradients=recorder.asks_gradients,
        writes_parameters=recorder.writes_to(model.parameters()),
    )


def _prepare(model: nn.Module, example: Example, using: FakeTensors, assumptions: Assumptions) -> Recorder:
    recorder = Recorder(using, _state_of(model), _device_of(model, example))
    recorder.assumptions = assumptions
    recorder.shared = _shared_memory(model)
    return recorder


def _writes_state(recorder: Recorder, changed: Collection[tuple[str, str]]) -> bool:
    """Say whether code wrote to what the model keeps besides attributes, or may on other values of the same sizes.

    On fake tensors without values no decision was taken on one; a write that is guessed needs another size or dtype.
    """
    decided = recorder.fake_tensors.kind == "real" and (recorder.goes_by_values or recorder.escapes)
    if decided or any(recorder.rebound.values()):
        return True
    if any((held.path, held.name) not in changed for held in recorder.attribute_writes):
        return True
    return bool(recorder.all_written() & recorder.persistent)


def _run(
    recorder: Recorder, model: nn.Module, example: Example, leaves: Leaves, training: bool | None, grad: bool
) -> tuple[bool, list[tuple[str, str]], frozenset[int]]:
    """Run the model under the recorder; return the mode it ran in, which plain attributes it changed, and what else."""
    watching = isinstance(recorder.fake_tensors, Originals)
    with ExitStack() as around:
        # Torch is patched for the whole process meanwhile.
        around.enter_context(_RECORDING)
        around.enter_context(fresh_caches(model))
        before = around.enter_context(preserved(model))
        around.enter_context(same_switches())
        around.enter_context(torch.compiler.set_stance("force_eager"))
        # Tensors of inference mode do not tell when they are written to.
        around.enter_context(torch.inference_mode(False))
        around.enter_context(torch.set_grad_enabled(grad))
        if training is not None:
            model.train(training)
        mode = model.training
        if recorder.fake_tensors.kind == "real" and not watching:
            recorder.known = before.tensors_held()
        args, kwargs = _write_inputs(recorder, bind(model, example), example)
        interceptor = ModuleCallPatches(model, recorder, leaves)
        with interceptor.installed(), _without_log("torch._subclasses.fake_tensor"):
            try:
                with recorder:
                    # What the model's code puts into context variables stays in there.
                    contextvars.copy_context().run(interceptor.run, model, args, kwargs)
            finally:
                recorder.active = False
        recorder.put_back(model)
        changed = [held for held in before.changes_of(model) if held not in recorder.rebound]
        homes = {id(module.__dict__) for module in model.modules()}
        return mode, changed, before.mutated() - homes


def _has_scripts(model: nn.Module) -> bool:
    """Say whether code in C++ runs, whose writes no one sees."""
    return any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())


@contextmanager
def _without_log(name: str) -> Iterator[None]:
    """Silence a logger that reports each failure of a fake tensor; the next kind of fake tensor is tried instead."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _state_of(model: nn.Module) -> dict[int, tuple[str, bool]]:
    """Map each tensor the model holds to its first path and whether it is a parameter."""
    found: dict[int, tuple[str, bool]] = {}
    for path, tensor in _held(model):
        found.setdefault(id(tensor), (path, isinstance(tensor, nn.Parameter)))
    return found


def _held(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for name, tensor in (*module._parameters.items(), *module._buffers.items(), *vars(module).items()):
            if isinstance(tensor, torch.Tensor):
                yield prefix + name, tensor


def _shared_memory(model: nn.Module) -> dict[Storage, torch.Tensor]:
    """Map memory that several of the model's tensors look at to one tensor over all of it."""
    looking: dict[Storage, dict[int, torch.Tensor]] = {}
    for _, tensor in _held(model):
        if tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_quantized:
            looking.setdefault(storage_of(tensor), {})[id(tensor)] = tensor
    several = {memory: next(iter(found.values())) for memory, found in looking.items() if len(found) > 1}
    return {memory: _flat(tensor.detach()) for memory, tensor in several.items()}


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    size = tensor.untyped_storage().nbytes() // tensor.element_size()
    return tensor.as_strided((size,), (1,), 0)


def _device_of(model: nn.Module, example: Example) -> torch.device:
    first = next(iter(model.parameters()), None)
    if first is not None:
        return first.device
    return next((held.device for _, held in tensors((example.args, example.kwargs))), torch.device("cpu"))


def _write_inputs(
    recorder: Recorder, bound: inspect.BoundArguments, example: Example
) -> tuple[list[Any], dict[str, Any]]:
    """Write a placeholder for each parameter of ``forward``; return the example with fake tensors for its tensors.

    The model is called the way the user would call it, because decorators around ``forward`` tell positional
    arguments from named ones.
    """
    given: dict[str, Any] = {}
    sole = sum(1 for _ in tensors((example.args, example.kwargs))) == 1
    for name, parameter in bound.signature.parameters.items():
        value = bound.arguments.get(name)
        default = () if parameter.default is parameter.empty else (parameter.default,)
        stars = STARS.get(parameter.kind, "")
        node = recorder.add("placeholder", stars + name, default, name=name)
        given[name] = recorder.write_input(node, value, sole)
    positional = inspect.BoundArguments(bound.signature, OrderedDict(given)).args
    rest: dict[str, Any] = next(
        (given[p.name] for p in bound.signature.parameters.values() if p.kind is p.VAR_KEYWORD), {}
    )
    named = {name: rest[name] if name in rest else given[name] for name in example.kwargs}
    return list(positional[: len(example.args)]), {**_tensor_defaults(bound, example, given), **named}


def _tensor_defaults(bound: inspect.BoundArguments, example: Example, given: dict[str, Any]) -> dict[str, Any]:
    """Pick the defaults that hold tensors; they are passed on like any input, since another may be given for them."""
    passed = {*list(bound.arguments)[: len(example.args)], *example.kwargs}
    parameters = bound.signature.parameters.values()
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in passed]
    return {name: given[name] for name in named if next(tensors(bound.arguments.get(name)), None) is not None}
