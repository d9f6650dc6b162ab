"""Run a model once in eager mode to learn which of its modules run, how often, and what they return."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from fxfeat.inputs.examples import copy_example
from fxfeat.ir.example import Example
from fxfeat.ir.tree import leaves_of
from fxfeat.isolation.module_paths import paths_of
from fxfeat.isolation.own_modes import set_mode
from fxfeat.isolation.preserved import lent_buffers, preserved
from fxfeat.isolation.torch_settings import same_switches, same_tiny_numbers
from fxfeat.runtime.counted_calls import CountedCalls

_STATISTICS = ("running_mean", "running_var")
"""What norms write to, though their schemas do not say so."""


@dataclass(frozen=True)
class ModuleCallSeen:
    """One call of a module: its number among the module's calls, what it returned, and when it began and ended.

    ``given`` are its positional and keyword arguments.
    """

    path: str
    call: int
    start: int
    stop: int
    result: Any
    given: tuple[Any, Any] = ((), {})


@dataclass(frozen=True)
class Exploration:
    """What one run showed.

    ``calls`` are the calls of modules in the order in which they returned, and ``used`` says when each module's tensors
    were first used, by the module's path. ``changes_python`` says that the run changed what modules keep in Python, and
    ``written`` when buffers of each module were last written to.
    """

    calls: tuple[ModuleCallSeen, ...]
    result: Any
    used: dict[str, int]
    written: dict[str, int] = field(default_factory=dict)
    changes_python: bool = False


def explore(model: nn.Module, example: Example, training: bool | None) -> Exploration:
    """Run a model, which comes back as it was.

    Args:
        model: the model.
        example: what to run it on.
        training: the mode; None leaves every flag as it is.

    Raises:
        Exception: whatever the model raises on the example.
    """
    with same_switches(), same_tiny_numbers(), preserved(model) as before, torch.compiler.set_stance("force_eager"):
        if training is not None:
            set_mode(model, training)
        with lent_buffers(model, also=before):
            seen = _Seen(model)
            given = copy_example(example)
            with seen.looking(), seen:
                result = model(*given.args, **given.kwargs)
        changes = bool(before.changes_of(model)) or bool(before.mutated() - {id(m.__dict__) for m in model.modules()})
        return Exploration(tuple(seen.calls), result, seen.used, seen.written, changes)


class _Seen(TorchDispatchMode):
    """Notes calls of modules by hooks, and uses of their tensors by what reaches the dispatcher."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.calls: list[ModuleCallSeen] = []
        self.used: dict[str, int] = {}
        self.written: dict[str, int] = {}
        self._paths = paths_of(model)
        self._owners = {
            id(tensor): path
            for module, path in self._paths.items()
            for tensor in (*module._parameters.values(), *module._buffers.values())
            if tensor is not None
        }
        self._time = 0
        self._calls = CountedCalls()
        self._starts: dict[types.FrameType, int] = {}
        self._thread = threading.get_ident()

    @contextmanager
    def looking(self) -> Iterator[None]:
        before = register_module_forward_pre_hook(self._enter)
        after = register_module_forward_hook(self._leave, with_kwargs=True)
        try:
            yield
        finally:
            before.remove()
            after.remove()

    def _enter(self, module: nn.Module, args: Any) -> None:
        if module in self._paths and threading.get_ident() == self._thread:
            self._time += 1
            frame = sys._getframe(1)
            self._starts[frame] = self._time
            self._calls.enter(module, frame)

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        if module not in self._paths or threading.get_ident() != self._thread:
            return
        self._time += 1
        number, start = self._calls.leave(module), self._starts.pop(sys._getframe(1))
        self.calls.append(ModuleCallSeen(self._paths[module], number, start, self._time, result, (args, kwargs)))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._time += 1
        for argument, value in _by_argument(func, args, kwargs or {}):
            for tensor in leaves_of(value):
                if isinstance(tensor, torch.Tensor) and id(tensor) in self._owners:
                    self._note(self._owners[id(tensor)], argument)
        return result

    def _note(self, path: str, argument: torch.Argument) -> None:
        self.used.setdefault(path, self._time)
        if argument.name in _STATISTICS or (argument.alias_info is not None and argument.alias_info.is_write):
            self.written[path] = self._time


def _by_argument(func: Any, args: Any, kwargs: Any) -> Iterator[tuple[torch.Argument, Any]]:
    arguments = func._schema.arguments
    yield from zip(arguments, args, strict=False)
    yield from ((argument, kwargs[argument.name]) for argument in arguments if argument.name in kwargs)
