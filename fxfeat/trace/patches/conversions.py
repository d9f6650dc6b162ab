"""Follow the numbers that opened code makes by ``int(x)``, ``float(x)`` and ``0.5 * x``.

Python takes nothing but plain numbers from ``__int__`` and ``__float__``. So calls of the two lead to functions that
return recorded numbers. Only the calls: elsewhere code compares types with ``int``, or gives it as a dtype.
"""

from __future__ import annotations

import dis
import functools
import sys
import types
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch

from fxfeat.isolation.patching import patch_globals
from fxfeat.trace.builder.torch_call import TorchCall
from fxfeat.trace.builder.trace import Trace
from fxfeat.trace.proxies import numbers
from fxfeat.trace.recorder import record_call
from fxfeat.trace.unobserved import unobserved

_PREFIX = "fxfeat "
"""What a name cannot begin with that code of the user's has."""


def follow_conversions(trace: Trace, functions: Iterable[types.FunctionType], undo: ExitStack) -> None:
    """Have calls of ``int`` and ``float`` in some functions return recorded numbers, until ``undo`` is closed."""
    conversions = {_PREFIX + kind.__name__: _converting(trace, kind) for kind in (int, float)}
    for function in functions:
        plain, redirected = function.__code__, redirect(function.__code__)
        if redirected is plain:
            continue
        if function.__globals__.keys().isdisjoint(conversions):
            patch_globals(undo, function.__globals__, conversions)
        function.__code__ = redirected
        undo.callback(setattr, function, "__code__", plain)


def _converting(trace: Trace, kind: type[int] | type[float]) -> Callable[..., Any]:
    def convert(*args: Any, **kwargs: Any) -> Any:
        if len(args) != 1 or kwargs or not trace.calls.live_here:
            return kind(*args, **kwargs)
        value = args[0]
        if isinstance(value, numbers.RECORDED):
            return value.ledger.compute(kind, args, kind(numbers.plain(value)))
        if not isinstance(value, torch.Tensor):
            return numbers.own(kind(value))
        with unobserved():
            return record_call(trace, TorchCall(kind, kind.__name__, None, args, {}, sys._getframe(1)))

    return convert


@functools.lru_cache(maxsize=4096)
def redirect(code: types.CodeType) -> types.CodeType:
    """Have calls of ``int`` and ``float`` by name load other names, and numbers written as ``0.5`` give way.

    Where there is neither, the code itself is returned.

    Before Python 3.11 the instruction does not tell a call from any other use, and is left alone.
    """
    constants = tuple(map(_follow_constant, code.co_consts))
    names, instructions = list(code.co_names), bytearray(code.co_code)
    for instruction in _loads(code):
        index = _called(instruction, names)
        if index is not None:
            instructions[instruction.offset + 1] = index << 1 | 1
    inside = any(new is not old for new, old in zip(constants, code.co_consts, strict=True))
    if not inside and instructions == code.co_code:
        return code
    return code.replace(co_consts=constants, co_names=tuple(names), co_code=bytes(instructions))


def _follow_constant(constant: Any) -> Any:
    if isinstance(constant, types.CodeType):
        return redirect(constant)
    return numbers.own(constant)


def _loads(code: types.CodeType) -> list[dis.Instruction]:
    """List the instructions that load ``int`` or ``float``."""
    if sys.version_info < (3, 11) or {"int", "float"}.isdisjoint(code.co_names):
        return []
    instructions = dis.get_instructions(code)
    return [each for each in instructions if each.opname == "LOAD_GLOBAL" and each.argval in ("int", "float")]


def _called(instruction: dis.Instruction, names: list[str]) -> int | None:
    """Return the place of the name to load instead, where what is loaded is called."""
    argument = instruction.arg or 0
    # The lowest bit says that it is called. Places from 128 on take another instruction before this one.
    if not argument & 1 or argument > 255:
        return None
    name = _PREFIX + instruction.argval
    if name not in names and len(names) < 128:
        names.append(name)
    return names.index(name) if name in names else None
