"""Leave a model as it was found, whatever happened to it in between."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxfeat.ir.equality import is_equal
from fxfeat.isolation.contents import ATOMS, BUILTINS, copy_contents, put_item
from fxfeat.isolation.module_paths import paths_of
from fxfeat.isolation.python_state import PythonState
from fxfeat.isolation.random_state import read_random, restore_random

_PLAIN = BUILTINS | ATOMS - {nn.Parameter}


@contextmanager
def preserved(model: nn.Module) -> Iterator[PythonState]:
    """Put every attribute, buffer and random state back on the way out, also after an error.

    Yields:
        What was held before, which tells what has changed since.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> with preserved(layer):
        ...     _ = layer.eval()
        >>> layer.training
        True
    """
    state, modules = PythonState(), paths_of(model)
    state.take_modules(modules)
    scripted = [module for module in modules if isinstance(module, torch.jit.ScriptModule)]
    values, flags = _buffers_of(scripted), [(module, module.training) for module in scripted]
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    if any(map(sets_modes, modules)):
        values += copy_values((*model.parameters(), *model.buffers()))
    memory = memory_of(tensor for tensor, _ in values)
    with _same_random():
        try:
            yield state
        finally:
            state.restore()
            put_memory_back(memory)
            restore_values(values)
            for parameter, is_trained in trained:
                if parameter.requires_grad != is_trained:
                    parameter.requires_grad_(is_trained)
            for module, training in flags:
                module.training = training  # it is kept in C++, not in the module's __dict__


def sets_modes(module: nn.Module) -> bool:
    """Say whether a module sets modes in a way of its own, which may write to tensors.

    Layers with low-rank adapters merge them into their weights so, and averaged weights are swapped in.
    """
    own = module.__dict__
    return any(name in own or getattr(type(module), name) is not getattr(nn.Module, name) for name in ("train", "eval"))


def memory_of(values: Iterable[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pair tensors with others over the memory that they have."""
    return [(tensor, tensor.data) for tensor in values]


def put_memory_back(memory: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Give tensors back the memory that they had, where code has exchanged it."""
    for tensor, data in memory:
        if tensor.data_ptr() != data.data_ptr():
            tensor.data = data


@contextmanager
def preserved_functions(functions: Iterable[Callable[..., Any]]) -> Iterator[None]:
    """Put back what some functions and modules keep on the way out, also after an error."""
    with ExitStack() as around:
        state = PythonState()
        around.callback(state.restore)
        for function in functions:
            if isinstance(function, nn.Module):
                around.enter_context(preserved(function))
                around.enter_context(lent_buffers(function))
            else:
                state.take_function(function)
        yield


@contextmanager
def preserved_attributes(model: nn.Module, paths: Collection[str]) -> Iterator[PythonState]:
    """Put what a few modules hold, and every random state, back on the way out, also after an error.

    It takes a fraction of the time of ``preserved``.
    """
    state = PythonState()
    state.take_attributes([model.get_submodule(path) for path in paths])
    with _same_random():
        try:
            yield state
        finally:
            state.restore()


@contextmanager
def _same_random() -> Iterator[None]:
    """Put every random state back on the way out, also after an error."""
    state = read_random()
    try:
        yield
    finally:
        restore_random(state)


@contextmanager
def lent_buffers(
    model: nn.Module, keep: Collection[tuple[str, str]] = (), also: PythonState | None = None
) -> Iterator[None]:
    """Let a model run, and write, on copies of its buffers and of the tensors that it holds besides.

    Buffers come back even where code put others in their place, save those in ``keep``, by path of the module and
    name. Other attributes are left to ``preserved``. The tensors in the lists and dicts of ``also`` are lent as well.
    """
    loans = list(_loans_of_modules(model, keep, also))
    loans += _loans_of_containers(also, {id(loan.holder) for loan in loans}) if also is not None else ()
    copies: dict[int, torch.Tensor] = {}
    for loan in loans:
        put_item(loan.holder, loan.name, copies.setdefault(id(loan.value), loan.value.detach().clone()))
    try:
        yield
    finally:
        for loan in loans:
            if loan.always_back or _item(loan.holder, loan.name) is copies[id(loan.value)]:
                put_item(loan.holder, loan.name, loan.value)


@dataclass(frozen=True)
class _Loan:
    """A tensor in place of which there is a copy for a while; ``always_back`` says to put it back over any other."""

    holder: Any
    name: Any
    value: torch.Tensor
    always_back: bool = False


def _loans_of_modules(model: nn.Module, keep: Collection[tuple[str, str]], also: PythonState | None) -> Iterator[_Loan]:
    for module, path in paths_of(model).items():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        buffers, attributes = module._buffers, module.__dict__
        for name, value in buffers.items() if buffers else ():
            if value is not None:
                yield _Loan(buffers, name, value, (path, name) not in keep)
        for name, value in attributes.items() if also is None or not also.shows(attributes) else ():
            if value.__class__ not in _PLAIN and isinstance(value, torch.Tensor):
                yield _Loan(attributes, name, value)


def _loans_of_containers(state: PythonState, lending: Collection[int]) -> Iterator[_Loan]:
    for container in state.holding:
        if id(container) in lending or isinstance(container, set):
            continue
        contents = copy_contents(container)
        for name, value in contents.items() if isinstance(container, dict) else enumerate(contents):
            if isinstance(value, torch.Tensor):
                yield _Loan(container, name, value)


def _item(holder: Any, name: Any) -> Any:
    contents = holder if type(holder) in BUILTINS else copy_contents(holder)
    try:
        return contents[name]
    except LookupError:
        return None


def _buffers_of(scripted: Iterable[nn.Module]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Copy the buffers of scripted modules, whose code in C++ runs on them and not on fake tensors."""
    return copy_values(buffer for module in scripted for buffer in module.buffers(recurse=False))


def copy_values(values: Iterable[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pair tensors with copies of them."""
    return [(tensor, tensor.detach().clone()) for tensor in values]


def restore_values(values: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Put the values of tensors back, by their copies."""
    with torch.no_grad():
        for buffer, value in values:
            if not is_equal(buffer, value):
                buffer.copy_(value)
