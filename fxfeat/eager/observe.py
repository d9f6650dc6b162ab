"""See what eager PyTorch computes for each feature: hooks on modules, listeners for operations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from fxfeat.eager.look import Look, looking
from fxfeat.eager.replacing import replacing
from fxfeat.inputs.examples import bind, copy_example
from fxfeat.ir.emission import Row
from fxfeat.ir.example import Example
from fxfeat.ir.feature import Given, OpOccurrence, Origin
from fxfeat.ir.tree import copy_tensors, follow, has
from fxfeat.ir.value_replacement import Replacement
from fxfeat.isolation.module_paths import paths_of
from fxfeat.isolation.own_modes import set_mode
from fxfeat.isolation.preserved import lent_buffers
from fxfeat.isolation.python_state import PythonState
from fxfeat.isolation.random_state import read_random, restore_random
from fxfeat.isolation.unwrap import unwrap
from fxfeat.trace.leaves import Leaves
from fxfeat.trace.run import watch

_FEW = 8


@dataclass(frozen=True)
class Observation:
    """What to observe of a model, and on what it is to run.

    ``leaves`` is what was called rather than entered when the rows were recorded. ``training`` is the mode; None leaves
    every flag as it is. ``purity`` says that the model is in that mode, and a run writes to no tensor that it keeps.
    ``replacements`` are the values that go through functions.
    """

    rows: tuple[Row, ...]
    leaves: Leaves
    example: Example
    training: bool | None
    purity: bool = False
    replacements: tuple[Replacement, ...] = ()

    def only(self, rows: Iterable[Row]) -> Observation:
        """Return the same for some of the rows."""
        return replace(self, rows=tuple(rows))


def observe(model: nn.Module, before: PythonState, observation: Observation, look: Look) -> None:
    """Run a model and look at each feature at the moment it is produced.

    Args:
        model: the model; its buffers stay as they are, its attributes are left as the run leaves them.
        before: the attributes that every run is to start from.
        observation: what to look at.
        look: called with each row and its value, which later code may write to; not for what the run does not reach.
    """
    modules = observation.only(row for row in observation.rows if not is_operation(row))
    operations = [row for row in observation.rows if is_operation(row)]
    random = read_random()
    if modules.rows:
        observe_by_counting(model, before, modules, look)
    if not operations:
        return
    if modules.rows:
        before.restore()
    restore_random(random)
    with _ready(model, before, observation):
        _watched(model, observation, operations, look)


def observe_by_counting(model: nn.Module, before: PythonState, observation: Observation, look: Look) -> None:
    """Run a model as ``observe`` does, in a tenth of the time, but count calls to tell operations from one another.

    Operations that cannot be told so are not looked at; where code counts otherwise than when it was recorded, another
    operation may be looked at.
    """
    with _ready(model, before, observation):
        _hooked(model, observation, copy_example(observation.example), look)


def buffers_after(model: nn.Module, before: PythonState, observation: Observation) -> dict[str, torch.Tensor]:
    """Run a model as ``observe`` does, and copy its buffers, by name, as the run leaves them."""
    with _ready(model, before, observation):
        example = copy_example(observation.example)
        model(*example.args, **example.kwargs)
        return {name: buffer.detach().clone() for name, buffer in model.named_buffers()}


def is_meta(model: nn.Module) -> bool:
    """Say whether a model has no values to run on."""
    return any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


def is_operation(row: Row) -> bool:
    """Say whether a feature is what an operation returned, which no hook can see."""
    return row.origin is not None and row.origin.path is None


@contextmanager
def _ready(model: nn.Module, before: PythonState, observation: Observation) -> Iterator[None]:
    training = observation.training
    if not (observation.purity or training is None or all(module.training == training for module in model.modules())):
        set_mode(model, training)
    with torch.compiler.set_stance("force_eager"), lend(model, before, observation):
        yield


def lend(model: nn.Module, before: PythonState, observation: Observation) -> AbstractContextManager[None]:
    """Let a model run on copies of what it may write to, if there is anything."""
    return nullcontext() if observation.purity else lent_buffers(model, also=before)


def _hooked(model: nn.Module, observation: Observation, example: Example, look: Look) -> None:
    rows = observation.rows
    modules = {path: module for module, path in paths_of(model).items()} if len(rows) > _FEW else {}
    returned: dict[nn.Module, list[tuple[Row, Origin]]] = {}
    given: dict[nn.Module, list[tuple[Row, Origin]]] = {}
    occurrences: dict[tuple[nn.Module, int], list[tuple[Row, OpOccurrence]]] = {}
    for row in rows:
        place = row.origin.sign or row.origin if row.origin is not None else None
        if isinstance(place, Given):
            _look_at_argument(model, row, place, example, look)
        elif isinstance(place, OpOccurrence):
            module = modules.get(place.path) or model.get_submodule(place.path)
            occurrences.setdefault((module, place.call), []).append((row, place))
        elif place is not None and place.path is not None:
            module = modules.get(place.path) or model.get_submodule(place.path)
            wanted = given if place.is_input else returned
            wanted.setdefault(module, []).append((row, place))
    lists: _Lists = {}
    with (
        replacing(model, observation.replacements) as computed,
        _hooks(returned, look, lists),
        _pre_hooks(given, look, lists),
        looking(model, occurrences, look, computed),
    ):
        result = model(*example.args, **example.kwargs)
    for row, values in lists.values():
        look(row, [values[number] for number in sorted(values)])
    for row, origin in returned.get(model, ()):
        if origin.call == 0 and not origin.every:
            # A hook does not see what a class adds in a __call__ of its own.
            look(row, follow(result, origin.steps))


def _look_at_argument(model: nn.Module, row: Row, given: Given, example: Example, look: Look) -> None:
    arguments = bind(model, example).arguments
    if given.parameter in arguments and has(arguments[given.parameter], given.steps):
        look(row, follow(arguments[given.parameter], given.steps))


@contextmanager
def _pre_hooks(wanted: dict[nn.Module, list[tuple[Row, Origin]]], look: Look, lists: _Lists) -> Iterator[None]:
    """Look at what modules are called with."""
    with ExitStack() as undo:
        for module, rows in wanted.items():
            see = _looker({module: rows}, look, lists)
            if isinstance(module, torch.jit.ScriptModule):
                hook = register_module_forward_pre_hook(lambda module, args, see=see: see(module, (), (args, {})))
            else:
                hook = module.register_forward_pre_hook(
                    lambda module, args, kwargs, see=see: see(module, (), (args, kwargs)), with_kwargs=True
                )
            undo.callback(hook.remove)
        yield


@contextmanager
def _hooks(wanted: dict[nn.Module, list[tuple[Row, Origin]]], look: Look, lists: _Lists) -> Iterator[None]:
    """Look at what modules return: by a hook on each, or by one on all of them, for many hooks take long to put on."""
    # A hook on all modules runs before a module's own, which may return something else.
    # A scripted module takes none of its own.
    hookable = [module for module in wanted if not isinstance(module, torch.jit.ScriptModule)]
    own = {module: wanted[module] for module in hookable if len(wanted) <= _FEW or module._forward_hooks}
    others = {module: rows for module, rows in wanted.items() if module not in own}
    with ExitStack() as undo:
        for module, rows in own.items():
            undo.callback(module.register_forward_hook(_looker({module: rows}, look, lists)).remove)
        if others:
            undo.callback(register_module_forward_hook(_looker(others, look, lists)).remove)
        yield


_Lists = dict[str, tuple[Row, dict[int, Any]]]
"""Copies of the values of all calls of a module, by key."""


def _looker(wanted: dict[nn.Module, list[tuple[Row, Origin]]], look: Look, lists: _Lists) -> Any:
    calls = dict.fromkeys(wanted, 0)
    for row, origin in (pair for pairs in wanted.values() for pair in pairs):
        if origin.every:
            lists[row.key] = (row, {})

    def note(module: nn.Module, inputs: Any, result: Any) -> None:
        call = calls.get(module)
        if call is None:
            return
        calls[module] = call + 1
        for row, origin in wanted[module]:
            if origin.every:
                lists[row.key][1][call] = copy_tensors(follow(result, origin.steps))
            elif origin.call == call:
                look(row, follow(result, origin.steps))

    return note


def _watched(model: nn.Module, observation: Observation, rows: list[Row], look: Look) -> None:
    """See operations that no hook can see, by listening to an eager run."""
    origins = [(row, row.origin) for row in rows if row.origin is not None]
    wanted, example = frozenset(origin.call_path for _, origin in origins), copy_example(observation.example)
    seen = watch(unwrap(model), example, observation.leaves, wanted, observation.replacements)
    for row, origin in origins:
        if origin.call_path in seen:
            look(row, follow(seen[origin.call_path], origin.steps))
