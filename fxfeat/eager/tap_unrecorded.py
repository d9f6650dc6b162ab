"""Tap a whole model that cannot be recorded: names are those of its modules."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

from torch import fx, nn

from fxfeat.eager.explore import Exploration, ModuleCallSeen, explore
from fxfeat.eager.named_calls import find_call
from fxfeat.eager.tapped_code import emit_tapped
from fxfeat.errors import TraceError
from fxfeat.inputs.examples import bind
from fxfeat.ir.draft import Draft
from fxfeat.ir.emission import Emission
from fxfeat.ir.example import Example
from fxfeat.ir.feature import Feature, Origin
from fxfeat.ir.node_meta import NodeMeta
from fxfeat.ir.recording import Recording
from fxfeat.ir.tap import Tap, TappedCall
from fxfeat.ir.tree import follow
from fxfeat.names.several import Names, Request, expand
from fxfeat.runtime.transformed import refuse_transformed
from fxfeat.trace.builder.measure import measure_all
from fxfeat.trace.builder.placeholders import STARS
from fxfeat.trace.leaves import Leaves, choose_leaves
from fxfeat.trace.setup import Setup


def tap_unrecorded(
    setup: Setup,
    training: bool | None,
    request: Request,
    reason: str,
    error: TraceError,
    on_model: bool = False,
    may_stop: bool = True,
    kept: Collection[str] = (),
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
        kept: buffers to keep up, by path, whether or not these values need them.

    Raises:
        TraceError: the given one, where the model does not run on the examples in eager mode either.
        NodeNotFoundError: for a name that is none of a module that runs.
    """
    example, seen = _explore(setup, training, error)
    leaves = choose_leaves(setup.tracer_kwargs)
    features, values, ends = [], {}, [0]
    for key, query in expand(_names(setup.model, seen, training), request).items():
        tap, call = find_call(setup.model, leaves, seen, query, error)
        origin = Origin(tap.path, call.call, (), tap.steps, is_input=tap.is_input, every=tap.every)
        features.append(Feature((key,), query, None, (), 0, origin=origin, tap=tap, whole=0))
        calls = [other for other in seen.calls if other.path == call.path] if tap.every else [call]
        for other in calls:
            refuse_transformed(query, _value_of(other, tap), TraceError)
        measured = [measure_all(_value_of(other, tap)) for other in sorted(calls, key=lambda other: other.call)]
        values[query] = measured if tap.every else measured[0]
        ends.append(call.start if tap.is_input else call.stop)
    taps = tuple(dict.fromkeys(feature.tap for feature in features if feature.tap is not None))
    stops = may_stop and all(tap.call is not None and tap.path for tap in taps)
    stops = stops and not _changes_later(seen, max(ends), {path.rpartition(".")[0] for path in kept})
    used = _used(setup.model, seen, max(ends)) if stops else frozenset(seen.used) | _finished(seen, None)
    whole = TappedCall("", "", reason, taps, stops, used)
    recording = _stand_for(setup.model, example, leaves, training)
    return emit_tapped(Draft(recording, fx.Graph(), tuple(features), on_model=on_model), whole, example, values)


def _value_of(call: ModuleCallSeen, tap: Tap) -> Any:
    return follow(call.given if tap.is_input else call.result, tap.steps)


def _names(model: nn.Module, seen: Exploration, training: bool | None) -> Names:
    modules = dict(model.named_modules())
    calls = sorted(seen.calls, key=lambda call: call.start)
    mode = "train" if (model.training if training is None else training) else "eval"
    return Names(model, tuple((call.path, id(modules[call.path])) for call in calls), (), mode)


def _explore(setup: Setup, training: bool | None, error: TraceError) -> tuple[Example, Exploration]:
    for example in setup.examples:
        try:
            return example, explore(setup.model, example, training)
        except Exception:
            continue
    raise error


def _changes_later(seen: Exploration, end: int, kept: set[str]) -> bool:
    """Say whether the run changes, behind a moment, what the next one may go by; ``kept`` are modules to keep up."""
    late = (path for path, time in seen.written.items() if time > end)
    return seen.changes_python or any(path in kept or seen.used[path] < end for path in late)


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


def _stand_for(model: nn.Module, example: Example, leaves: Leaves, training: bool | None) -> Recording:
    """Make a recording of nothing but the inputs."""
    graph = fx.Graph()
    for index, (name, value) in enumerate(bind(model, example).arguments.items()):
        parameter = inspect.signature(model.forward).parameters[name]
        stars = STARS.get(parameter.kind, "")
        default = () if parameter.default is parameter.empty else (parameter.default,)
        node = graph.create_node("placeholder", stars + name, default, name=name)
        node.meta["fxfeat"] = NodeMeta(index, 0, measure_all(value))
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
