"""Tap a whole model: its own code runs, and nothing of it is written out."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn

from fxfeat.analysis.dependencies import find_needed
from fxfeat.codegen.emit import emit
from fxfeat.eager.explore import Exploration, ModuleCallSeen, explore
from fxfeat.errors import UNSEEN_STATE, NodeNotFoundError, TraceError
from fxfeat.inputs.examples import bind
from fxfeat.ir.draft import Draft
from fxfeat.ir.emission import Emission
from fxfeat.ir.example import Example
from fxfeat.ir.feature import Feature, Given, Origin
from fxfeat.ir.node_meta import NodeMeta, measure, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tap import Tap, TappedCall
from fxfeat.ir.tree import Steps, follow, has, tensors
from fxfeat.names.query import OUTPUT, Parsed, parse_query
from fxfeat.opening.plan import is_looked_at
from fxfeat.opening.seal import check_hookable, measured, modules_used, tap_of
from fxfeat.runtime.clone import clone_all
from fxfeat.runtime.run_tapped import run_tapped
from fxfeat.trace.builder.placeholders import STARS
from fxfeat.trace.leaves import Leaves, choose_leaves
from fxfeat.trace.setup import Setup

_NUMBERED = re.compile(r"(.+)_(\d+)")


def tap_recorded(
    recording: Recording,
    features: list[Feature],
    example: Example,
    reason: str,
    on_model: bool = False,
    may_stop: bool = True,
) -> Emission:
    """Emit an extractor that runs a whole model, of which a recording tells the names.

    Args:
        recording: the recording.
        features: what is wanted of it.
        example: what it was recorded with.
        reason: why the model runs whole.
        on_model: write code that runs on the model's own tree of modules.
        may_stop: whether the run may be stopped behind the last value.

    Raises:
        TraceError: for a value that cannot be copied out of a running model.
    """
    moved = [_tap(recording, feature) for feature in features]
    inner = [feature for feature in moved if feature.tap is not None]
    end = max((feature.produced_at for feature in inner), default=0)
    stops = may_stop and bool(inner) and reason != UNSEEN_STATE and _may_stop(recording, inner, end)
    used = modules_used(recording, 0, end if stops else recording.module_calls[0].stop)
    taps = tuple(dict.fromkeys(feature.tap for feature in inner if feature.tap is not None))
    call = TappedCall("", "", reason, taps, stops, used)
    values = {feature.name: measured(feature) for feature in inner}
    emission = _emit(Draft(recording, fx.Graph(), tuple(moved), on_model=on_model), call, example, values)
    return dataclasses.replace(emission, writes_parameters=recording.writes_parameters)


def _tap(recording: Recording, feature: Feature) -> Feature:
    origin = feature.origin
    if origin is not None and origin.path is None and isinstance(origin.sign, Given):
        return feature
    tap = tap_of(recording, feature, 0)
    if tap is None:
        raise TraceError(f"{feature.name!r} cannot be copied out of a running model. Ask for a module's result.")
    return dataclasses.replace(feature, tap=tap, whole=0)


def _may_stop(recording: Recording, features: list[Feature], end: int) -> bool:
    """Say whether what the model does behind the last value matters to no later call."""
    if any(feature.tap is None or feature.tap.call is None or not feature.tap.path for feature in features):
        return False
    if is_looked_at(recording, recording.module_calls[0], end):
        return False
    if (
        recording.changed_attributes
        or recording.mutated
        or any(write.position >= end for write in recording.attribute_writes)
    ):
        return False
    needed = find_needed(recording, recording.nodes, tuple(features))
    return all(meta_of(node).position < end for node in needed)


# -- models that cannot be recorded ------------------------------------------------------------------------------------


def tap_unrecorded(
    setup: Setup,
    training: bool | None,
    request: dict[str, str],
    reason: str,
    error: TraceError,
    on_model: bool = False,
    may_stop: bool = True,
) -> Emission:
    """Emit an extractor that runs a whole model which cannot be recorded: names are those of its modules.

    Args:
        setup: the model and its examples.
        training: the mode.
        request: the names by key.
        reason: why the model runs whole.
        error: what recording it raised.
        on_model: write code that runs on the model's own tree of modules.
        may_stop: whether the run may be stopped behind the last value.

    Raises:
        TraceError: the given one, where the model does not run on the examples in eager mode either.
        NodeNotFoundError: for a name that is none of a module that runs.
    """
    example, seen = _explore(setup, training, error)
    leaves = choose_leaves(setup.tracer_kwargs)
    features, values, ends = [], {}, [0]
    for key, query in request.items():
        tap, returned = _find(setup.model, leaves, seen, query, error)
        origin = Origin(tap.path, returned.call, (), tap.steps)
        features.append(Feature((key,), query, None, (), 0, origin=origin, tap=tap, whole=0))
        values[query] = _measure(follow(returned.result, tap.steps))
        ends.append(returned.stop)
    taps = tuple(dict.fromkeys(feature.tap for feature in features if feature.tap is not None))
    stops = may_stop and all(tap.call is not None and tap.path for tap in taps)
    stops = stops and not _changes_later(seen, max(ends))
    used = _used(setup.model, seen, max(ends)) if stops else frozenset(seen.used) | _finished(seen, None)
    call = TappedCall("", "", reason, taps, stops, used)
    recording = _stand_for(setup.model, example, leaves, training)
    return _emit(Draft(recording, fx.Graph(), tuple(features), on_model=on_model), call, example, values)


def _explore(setup: Setup, training: bool | None, error: TraceError) -> tuple[Example, Exploration]:
    for example in setup.examples:
        try:
            return example, explore(setup.model, example, training)
        except Exception:
            continue
    raise error


def _changes_later(seen: Exploration, end: int) -> bool:
    """Say whether the run changes, behind a moment, what the next one may go by."""
    return seen.changes_python or any(time > end and seen.used[path] < end for path, time in seen.written.items())


def _used(model: nn.Module, seen: Exploration, end: int) -> frozenset[str]:
    early = {path for path, time in seen.used.items() if time <= end} | _finished(seen, end)
    called = {call.path for call in seen.calls} | set(seen.used)
    # What this run did not call another one may call.
    never = {path for path, _ in model.named_modules() if path not in called}
    return frozenset(early | {path for path in never if _is_reached(path, early)})


def _is_reached(path: str, early: set[str]) -> bool:
    owner = path.rpartition(".")[0]
    return bool(owner) and (owner in early or _is_reached(owner, early))


def _finished(seen: Exploration, end: int | None) -> frozenset[str]:
    return frozenset(call.path for call in seen.calls if end is None or call.stop <= end)


def _find(
    model: nn.Module, leaves: Leaves, seen: Exploration, query: str, error: TraceError
) -> tuple[Tap, ModuleCallSeen]:
    modules = dict(model.named_modules(remove_duplicate=False))
    parsed = parse_query(query)
    for name, number, steps in _readings(query, parsed):
        calls = sorted(_calls_of(modules, seen, name), key=lambda call: call.call)
        if not calls:
            continue
        is_first = name != OUTPUT and name in modules and leaves.is_leaf_kind(modules[name])
        index = number if number is not None else 0 if is_first else len(calls) - 1
        if index >= len(calls):
            raise _explain_call(name, index, len(calls))
        if _leads_to_tensors(calls[index].result, steps):
            check_hookable(model, calls[index].path, query, inside=False)
            is_last = number is None and not is_first and len(calls) > 1
            return Tap(query, calls[index].path, None if is_last else calls[index].call, steps), calls[index]
    raise _explain_missing(model, modules, seen, query, parsed.name, error)


def _readings(query: str, parsed: Parsed) -> Iterator[tuple[str, int | None, Steps]]:
    """Yield what a query may stand for: a module's path, the number of its call, and steps into what it returned."""
    yield query, None, ()
    yield parsed.name, parsed.call, parsed.steps
    parts = parsed.name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        attributes = tuple(("attr", part) for part in parts[cut:])
        yield ".".join(parts[:cut]), parsed.call, (*attributes, *parsed.steps)


def _explain_call(name: str, index: int, count: int) -> NodeNotFoundError:
    times = "once" if count == 1 else f"{count} times"
    return NodeNotFoundError(
        f"'{name}@{index}' was asked for, but {name!r} is called {times}; the last call is '{name}@{count - 1}'."
    )


def _leads_to_tensors(value: Any, steps: Steps) -> bool:
    """Say whether steps lead to tensors; what a tensor has as attributes is no part of a result."""
    befores = [steps[:count] for count, (kind, _) in enumerate(steps) if kind == "attr"]
    if not has(value, steps) or any(isinstance(follow(value, before), torch.Tensor) for before in befores):
        return False
    return not steps or next(tensors(follow(value, steps)), None) is not None


def _calls_of(modules: dict[str, nn.Module], seen: Exploration, name: str) -> list[ModuleCallSeen]:
    if name == OUTPUT:
        return [call for call in seen.calls if not call.path and not call.call]
    module = modules.get(name)
    first = next((path for path, other in modules.items() if other is module), None)
    calls = [call for call in seen.calls if call.path == first and name]
    if calls:
        return calls
    if module is not None:
        # A container that is never called itself, such as a ModuleList, stands for what ran last in it.
        return [call for call in seen.calls if f"{call.path}.".startswith(f"{first}.")][-1:] if name else []
    numbered = _NUMBERED.fullmatch(name)
    others = _calls_of(modules, seen, numbered[1]) if numbered else []
    return [call for call in others if numbered and call.call == int(numbered[2]) and numbered[1] in modules]


def _explain_missing(
    model: nn.Module, modules: dict[str, nn.Module], seen: Exploration, query: str, name: str, error: TraceError
) -> NodeNotFoundError:
    kind = type(model).__name__
    names = list(dict.fromkeys([*(call.path for call in seen.calls if call.path), OUTPUT]))
    near = difflib.get_close_matches(name, names, 3, 0.5)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    if name in modules:
        return NodeNotFoundError(f"{query!r} is a module of {kind}, but its forward does not run in this mode.{hint}")
    return NodeNotFoundError(
        f"{kind} has no module {query!r} that runs in this mode.{hint} Operations have no names in it, since it could "
        f"not be recorded: {error.reason}"
    )


def _measure(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return measure(value)
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return type(value)(_measure(part) for part in value)
    if isinstance(value, dict):
        return {key: _measure(part) for key, part in value.items()}
    return tuple(measure(tensor) for _, tensor in tensors(value))


def _stand_for(model: nn.Module, example: Example, leaves: Leaves, training: bool | None) -> Recording:
    """Make a recording of nothing but the inputs."""
    graph = fx.Graph()
    for index, (name, value) in enumerate(bind(model, example).arguments.items()):
        parameter = inspect.signature(model.forward).parameters[name]
        stars = STARS.get(parameter.kind, "")
        default = () if parameter.default is parameter.empty else (parameter.default,)
        node = graph.create_node("placeholder", stars + name, default, name=name)
        node.meta["fxfeat"] = NodeMeta(index, 0, _measure(value))
    return Recording(
        graph=graph,
        module_calls=(),
        guards=(),
        result=None,
        kind="real",
        training=model.training if training is None else training,
        root=model,
        tensors={},
        persistent=frozenset(),
        opened=leaves.opened,
        signature=inspect.signature(model.forward),
    )


# -- the code ----------------------------------------------------------------------------------------------------------


def _emit(draft: Draft, call: TappedCall, example: Example, values: dict[str, Any]) -> Emission:
    graph, recording = draft.graph, draft.recording
    inputs: dict[str, fx.Node] = {}
    for node in recording.graph.nodes:
        if node.op == "placeholder":
            # By the parameter's name: the node of one that is called input, as one of Python's functions, has another.
            inputs[str(node.target).lstrip("*")] = graph.node_copy(node)
    given = [_clone_input(graph, inputs, feature) for feature in draft.features]
    if call.taps:
        args, kwargs = _arguments(recording.signature, inputs, example)
        owner = _add(graph, "get_attr", "", (), {}, NodeMeta(0, 0, container=True))
        node = _add(graph, "call_function", run_tapped, (owner, "", *args), kwargs, NodeMeta(0, 0, (None, values)))
        copies = _add(graph, "call_function", operator.getitem, (node, 1), {}, NodeMeta(0, 0, values))
        picked = {
            name: _add(graph, "call_function", operator.getitem, (copies, name), {}, NodeMeta(0, 0, value))
            for name, value in values.items()
        }
        given = [feature if feature.tap is None else _move(feature, picked[feature.name]) for feature in given]
    calls = (call,) if call.taps else ()
    return emit(dataclasses.replace(draft, features=tuple(given), tapped_calls=calls))


def _move(feature: Feature, node: fx.Node) -> Feature:
    return dataclasses.replace(feature, value=node, steps=())


def _clone_input(graph: fx.Graph, inputs: dict[str, fx.Node], feature: Feature) -> Feature:
    """Copy an input that is a feature before the model can write to it."""
    if feature.tap is not None or feature.origin is None or not isinstance(feature.origin.sign, Given):
        return feature
    node, value = inputs[feature.origin.sign.parameter], meta_of(inputs[feature.origin.sign.parameter]).value
    for kind, step in feature.origin.sign.steps:
        value = value[step] if isinstance(value, (tuple, list, dict)) else None
        node = _add(
            graph,
            "call_function",
            operator.getitem if kind == "item" else getattr,
            (node, step),
            {},
            NodeMeta(0, 0, value),
        )
    function: Callable[..., Any] = clone_all
    return _move(feature, _add(graph, "call_function", function, (node,), {}, NodeMeta(0, 0, measured(feature))))


def _add(graph: fx.Graph, op: str, target: Any, args: Any, kwargs: Any, meta: NodeMeta) -> fx.Node:
    node = graph.create_node(op, target, args, kwargs)
    node.meta["fxfeat"] = meta
    return node


def _arguments(
    signature: inspect.Signature, inputs: dict[str, fx.Node], example: Example
) -> tuple[list[Any], dict[str, Any]]:
    """Pass every parameter on, the way the example was passed: decorators tell named arguments from others.

    What gathers further arguments keeps its stars in the placeholder's target, by which it is written.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    parameters = list(signature.parameters.values())
    gathers = any(one.kind is one.VAR_POSITIONAL for one in parameters)
    for parameter in parameters:
        node = inputs[parameter.name]
        by_name = parameter.default is not parameter.empty or parameter.name in example.kwargs
        if parameter.kind is parameter.VAR_POSITIONAL:
            args.append(node)
        elif (
            parameter.kind is parameter.VAR_KEYWORD
            or parameter.kind is parameter.KEYWORD_ONLY
            or (parameter.kind is parameter.POSITIONAL_OR_KEYWORD and by_name and not gathers)
        ):
            kwargs[parameter.name] = node
        else:
            args.append(node)
    return args, kwargs
