"""Say whether the numbers that opened code hands to torch stand in its source, or in what its modules hold.

Any other number may have come from a clock, an iterator or a counter, unseen.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from typing import Any

from torch import nn

from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import leaves_of
from fxfeat.opening.plan import Plan

_NUMBERS = (int, float, complex)
_DEEPEST = 2


def have_sources(recording: Recording, plan: Plan) -> bool:
    """Say whether each number in opened code is one that its source or its modules hold."""
    numbers = _numbers_in(recording, plan)
    if not numbers:
        return True
    paths = {recording.module_calls[index].path for index in plan.opened}
    modules: list[Any] = [recording.root.get_submodule(path) for path in paths]
    return numbers <= {number for module in modules for number in (*_written_in(module.__class__), *_held_by(module))}


def _numbers_in(recording: Recording, plan: Plan) -> set[Any]:
    nodes = (node for node in plan.needed if plan.whole_call(recording, meta_of(node).module_call) is None)
    operands: Iterator[Any] = (part for node in nodes for part in leaves_of((node.args, node.kwargs)))
    return {part for part in operands if type(part) in _NUMBERS}


@functools.cache
def _written_in(kind: Any) -> frozenset[Any]:
    """List the numbers in the source of a class, and of the classes that it is derived from.

    >>> 0.5 in _written_in(type("Half", (), {"forward": lambda self, x: x * 0.5}))
    True
    """
    homes = (home for home in kind.__mro__ if home not in (nn.Module, object))
    functions = (getattr(value, "__func__", value) for home in homes for value in vars(home).values())
    codes = (function.__code__ for function in functions if isinstance(function, types.FunctionType))
    return frozenset(number for code in codes for number in _constants(code))


def _constants(code: types.CodeType) -> Iterator[Any]:
    for part in leaves_of(code.co_consts):
        if isinstance(part, types.CodeType):
            yield from _constants(part)
        elif type(part) in _NUMBERS:
            yield from (part, -part)


def _held_by(value: Any, depth: int = 0) -> Iterator[Any]:
    """Yield the numbers that an object holds, such as a module, or its configuration."""
    for part in leaves_of(list(getattr(value, "__dict__", {}).values())):
        if type(part) in _NUMBERS:
            yield part
        elif depth < _DEEPEST and not isinstance(part, (nn.Module, type, types.FunctionType)):
            yield from _held_by(part, depth + 1)
