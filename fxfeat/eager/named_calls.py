"""Say which module call a query means in a model that cannot be recorded, by one run in eager mode."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from fxfeat.eager.explore import Exploration, ModuleCallSeen
from fxfeat.errors import NodeNotFoundError, TraceError
from fxfeat.ir.tap import Tap
from fxfeat.ir.tree import Steps, follow, has, tensors
from fxfeat.names.query import OUTPUT, Parsed, is_result, parse_query, suggest
from fxfeat.names.request import choose_input
from fxfeat.opening.seal import check_hookable
from fxfeat.trace.leaves import Leaves

_NUMBERED = re.compile(r"(.+)_(\d+)")


def find_call(
    model: nn.Module, leaves: Leaves, seen: Exploration, query: str, error: TraceError
) -> tuple[Tap, ModuleCallSeen]:
    """Find the call that a query means, and say how to copy the value out of it.

    Args:
        model: the model.
        leaves: what counts as a leaf, whose name means its first call.
        seen: what a run of the model showed.
        query: what was typed.
        error: why the model could not be recorded.

    Raises:
        NodeNotFoundError: for a name that is none of a module that ran.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    parsed = parse_query(query)
    if parsed.every:
        tap, call = find_call(model, leaves, seen, query.replace("@*", "@0", 1), error)
        return replace(tap, name=query, call=None, every=True), call
    for name, number, steps in _readings(query, parsed):
        calls = sorted(_calls_of(modules, seen, name), key=lambda call: call.call)
        if not calls:
            continue
        is_first = not is_result(name, modules) and name in modules and leaves.is_leaf_kind(modules[name])
        index = number if number is not None else 0 if is_first else len(calls) - 1
        if index >= len(calls):
            raise _explain_call(name, index, len(calls))
        if parsed.is_input and not is_result(name, modules):
            check_hookable(model, calls[index].path, query, inside=False)
            steps = choose_input(query, steps, *calls[index].given)
            is_last = number is None and not is_first and len(calls) > 1
            return Tap(query, calls[index].path, None if is_last else index, steps, is_input=True), calls[index]
        if _leads_to_tensors(calls[index].result, steps):
            check_hookable(model, calls[index].path, query, inside=False)
            is_last = number is None and not is_first and len(calls) > 1
            return Tap(query, calls[index].path, None if is_last else calls[index].call, steps), calls[index]
    raise _explain_missing(model, modules, seen, query, parsed.name, error)


def _readings(query: str, parsed: Parsed) -> Iterator[tuple[str, int | None, Steps]]:
    """Yield what a query may stand for: a module's path, the number of its call, and steps into what it returned."""
    if parsed.is_input:
        yield parsed.name, parsed.call, parsed.steps
        return
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
    if is_result(name, modules):
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
    hint = suggest(name, names)
    if name in modules:
        return NodeNotFoundError(f"{query!r} is a module of {kind}, but its forward does not run in this mode.{hint}")
    return NodeNotFoundError(
        f"{kind} has no module {query!r} that runs in this mode.{hint} Operations have no names in it, since it could "
        f"not be recorded: {error.reason}"
    )
