"""Widen what nodes write by memory that is shared on some inputs only.

``x.contiguous()`` is ``x`` itself for one input and a copy for another, and a module that decides on a size may hand
its argument back at another one. The recording shows one of the two; written-out code has to be right for both.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from fxfeat.ir.module_call import ModuleCall, ancestors
from fxfeat.ir.node_meta import Storage, amend, meta_of
from fxfeat.ir.tree import nodes_in
from fxfeat.ir.writing_code import names_in_place, stores_in_place

COPIES_OR_NOT = frozenset(
    {
        *("contiguous", "reshape", "reshape_as", "flatten", "ravel", "to", "type", "type_as", "cpu", "cuda", "xpu"),
        *("float", "double", "half", "bfloat16", "int", "long", "short", "char", "byte", "bool", "cfloat", "cdouble"),
        *("resolve_conj", "resolve_neg", "as_tensor", "asarray", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
    }
)
"""Calls that return a view of their argument, or itself, on some inputs and a copy on others."""


@dataclass(frozen=True)
class Tie:
    """Memory that may be one from some position on."""

    position: int
    memory: frozenset[Storage]


def widen_writes(
    root: nn.Module, graph: fx.Graph, module_calls: tuple[ModuleCall, ...], deciding: Iterable[int], ties: Iterable[Tie]
) -> None:
    """Add to what each node writes the memory that may be the same on another input.

    Args:
        root: the model.
        graph: its recorded nodes, which are changed.
        module_calls: its recorded module calls.
        deciding: the module calls whose own code decided on a size or a value.
        ties: what calls may have handed back.
    """
    nodes = list(graph.nodes)
    direct = {index for index in deciding if index}
    around = direct | {outer for index in direct for outer in ancestors(module_calls, index) if outer}
    _write_on_other_branches(root, nodes, [module_calls[index] for index in direct])
    waiting = sorted((*ties, *(_handed_back(module_calls[index]) for index in around)), key=lambda tie: tie.position)
    groups: dict[Storage, frozenset[Storage]] = {}
    for node in nodes if waiting else []:
        while waiting and waiting[0].position <= meta_of(node).position:
            _join(groups, waiting.pop(0).memory)
        written = meta_of(node).writes
        if any(memory in groups for memory in written):
            _widen(node, frozenset[Storage]().union(*(groups.get(memory, frozenset()) for memory in written)))


def _join(groups: dict[Storage, frozenset[Storage]], memory: frozenset[Storage]) -> None:
    joined = memory.union(*(groups[storage] for storage in memory if storage in groups))
    groups.update(dict.fromkeys(joined, joined))


def _handed_back(module_call: ModuleCall) -> Tie:
    given = _memory(nodes_in((module_call.args, module_call.kwargs)))
    return Tie(module_call.stop, given | _memory(node for _, node in module_call.result_nodes))


def _memory(nodes: Iterable[fx.Node]) -> frozenset[Storage]:
    nothing: frozenset[Storage] = frozenset()
    return nothing.union(*(meta_of(node).aliases for node in nodes))


def _write_on_other_branches(root: nn.Module, nodes: list[fx.Node], module_calls: list[ModuleCall]) -> None:
    """Let a module that decides, and whose code has a write in it, write to its arguments."""
    for module_call in module_calls:
        inside = nodes[module_call.start : module_call.stop]
        if inside and may_write(root.get_submodule(module_call.path)):
            given = _memory(nodes_in((module_call.args, module_call.kwargs)))
            _widen(inside[-1], given)


def _widen(node: fx.Node, memory: frozenset[Storage]) -> None:
    """Note memory that a node may write on another input, beside what it was seen to write."""
    meta = meta_of(node)
    amend(node, writes=meta.writes | memory, may_write=meta.may_write | (memory - meta.writes))


def may_write(module: nn.Module) -> bool:
    """Say whether a module's code has anything in it that writes to a tensor in place.

    >>> may_write(nn.ReLU(inplace=True)), may_write(nn.Linear(1, 1))
    (True, False)
    """
    if any(getattr(part, "inplace", False) is True for part in module.modules()):
        return True
    own = {type(part) for part in module.modules() if not type(part).__module__.startswith("torch.")}
    return any(_writes(code) for kind in own for code in _code_of(kind))


def _code_of(kind: type) -> Iterator[types.CodeType]:
    """Yield the code of a class's forward, and of the methods and functions that it calls by name."""
    waiting: list[Any] = [getattr(kind, "forward", None)]
    seen: set[types.CodeType] = set()
    while waiting:
        function = waiting.pop()
        function = inspect.unwrap(function) if isinstance(function, types.FunctionType) else function
        if not isinstance(function, types.FunctionType) or function.__code__ in seen:
            continue
        seen.add(function.__code__)
        yield function.__code__
        names = function.__code__.co_names
        called = [function.__globals__.get(name) for name in names] + [getattr(kind, name, None) for name in names]
        functions = (function for function in called if isinstance(function, types.FunctionType))
        waiting += [function for function in functions if not str(function.__module__).startswith("torch")]


def _writes(code: types.CodeType) -> bool:
    return names_in_place(code) or not _names(code).isdisjoint(("out", "inplace")) or stores_in_place(code)


def _names(code: types.CodeType) -> set[str]:
    """List the names of keyword arguments, which the compiler keeps as tuples of constants."""
    constants = [constant for constant in code.co_consts if isinstance(constant, tuple)]
    return {name for constant in constants for name in constant if isinstance(name, str)}
