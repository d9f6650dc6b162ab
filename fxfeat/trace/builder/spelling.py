"""Spell a torch function call as an fx call: the operation, its target, and its arguments in reading order."""

from __future__ import annotations

import dis
import operator
import types
from collections.abc import Callable
from typing import Any

from fxfeat.analysis.effects import attribute_of

Call = tuple[str, Any, tuple[Any, ...], dict[str, Any]]

_SYMBOLS = {
    "+": "add",
    "&": "and_",
    "//": "floordiv",
    "<<": "lshift",
    "@": "matmul",
    "*": "mul",
    "%": "mod",
    "|": "or_",
    "**": "pow",
    ">>": "rshift",
    "-": "sub",
    "/": "truediv",
    "^": "xor",
}
_IN_PLACE = {name: f"i{name.rstrip('_')}" for name in _SYMBOLS.values()}
_PLAIN = {getattr(operator, i): getattr(operator, name) for name, i in _IN_PLACE.items()}
_REFLECTED = {
    "__rsub__": operator.sub,
    "__rdiv__": operator.truediv,
    "__rtruediv__": operator.truediv,
    "__rfloordiv__": operator.floordiv,
    "__rpow__": operator.pow,
    "__rmod__": operator.mod,
    "__rmatmul__": operator.matmul,
    "__rlshift__": operator.lshift,
    "__rrshift__": operator.rshift,
}
_MAGIC = {"__idiv__": operator.itruediv, "__div__": operator.truediv, "__abs__": operator.abs}
# Before Python 3.11 each operator had an instruction of its own.
_OLD_INSTRUCTIONS = {
    **{f"BINARY_{word}": name for word, name in (("ADD", "add"), ("SUBTRACT", "sub"), ("MULTIPLY", "mul"))},
    **{f"BINARY_{word}": name for word, name in (("TRUE_DIVIDE", "truediv"), ("FLOOR_DIVIDE", "floordiv"))},
    **{f"BINARY_{word}": name for word, name in (("MODULO", "mod"), ("POWER", "pow"), ("MATRIX_MULTIPLY", "matmul"))},
    **{f"BINARY_{word}": name for word, name in (("AND", "and_"), ("OR", "or_"), ("XOR", "xor"))},
    **{f"BINARY_{word}": name for word, name in (("LSHIFT", "lshift"), ("RSHIFT", "rshift"))},
}
_UNARY = {"UNARY_NEGATIVE": operator.neg, "UNARY_POSITIVE": operator.pos, "UNARY_INVERT": operator.invert}


def spell_call(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], caller: types.FrameType | None) -> Call:
    """Spell a call as torch.fx does, so that names agree with torchvision's.

    Args:
        function: what a ``TorchFunctionMode`` was handed.
        args: its positional arguments.
        kwargs: its keyword arguments.
        caller: the Python frame that made the call, which tells ``x += y`` from ``x.add_(y)``.

    Returns:
        ``(op, target, args, kwargs)`` for ``fx.Graph.create_node``.
    """
    attribute = attribute_of(function)
    if attribute is not None:
        access = getattr if function.__name__ == "__get__" else setattr
        return "call_function", access, (args[0], attribute, *args[1 : 2 if access is setattr else 1]), {}
    if not _is_method(function):
        return "call_function", function, args, kwargs
    name = function.__name__
    if name in _REFLECTED:
        return "call_function", _REFLECTED[name], (args[1], args[0]), {}
    spelled = operator_of(caller)
    if spelled in _PLAIN and not _is_in_place(name):
        # `0 += x` where 0 cannot add in place: Python goes on with `0 + x`.
        spelled = _PLAIN[spelled]
    if spelled is not None and not kwargs:
        return "call_function", spelled, args, {}
    if name.startswith("__") and name.endswith("__"):
        return "call_function", _magic(name, function), args, kwargs
    return "call_method", name, args, kwargs


def _is_method(function: Any) -> bool:
    if isinstance(function, (types.MethodDescriptorType, types.WrapperDescriptorType)):
        return True
    return isinstance(function, types.FunctionType) and function.__qualname__.startswith(("Tensor.", "TensorBase."))


def _is_in_place(name: str) -> bool:
    return name.startswith("__i") if name.startswith("__") else name.endswith("_")


def _magic(name: str, function: Any) -> Any:
    return _MAGIC.get(name) or getattr(operator, name, None) or function


def operator_of(frame: types.FrameType | None) -> Any:
    """Return the operator that ``frame`` is executing, or None where it is executing a plain call.

    C++ reports ``x += y`` as ``add_`` and ``x / y`` as ``div``; only the instruction still knows what was written.
    """
    if frame is None or frame.f_lasti < 0:
        return None
    code = frame.f_code.co_code
    instruction = dis.opname[code[frame.f_lasti]]
    if instruction == "BINARY_OP":
        return _binary(code[frame.f_lasti + 1])
    if instruction in _UNARY:
        return _UNARY[instruction]
    if instruction.startswith("INPLACE_"):
        name = _OLD_INSTRUCTIONS.get(instruction.replace("INPLACE", "BINARY", 1))
        return getattr(operator, _IN_PLACE[name]) if name else None
    name = _OLD_INSTRUCTIONS.get(instruction)
    return getattr(operator, name) if name else None


def _binary(argument: int) -> Any:
    symbol = dis._nb_ops[argument][1]  # type: ignore[attr-defined]  # the only table of BINARY_OP's arguments
    if symbol in _SYMBOLS:
        return getattr(operator, _SYMBOLS[symbol])
    name = _SYMBOLS.get(symbol.removesuffix("="))
    return getattr(operator, _IN_PLACE[name]) if name else None


def named(function: Callable[..., Any], name: str, module: str) -> Callable[..., Any]:
    """Give a name and a module to what has none, as methods written in C and callable objects; a graph needs both.

    >>> import random
    >>> named(random.random, "random", "random").__module__
    'random'
    """

    def called(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    called.__module__, called.__name__, called.__qualname__ = module, name, name
    called.fxfeat_wraps = function  # type: ignore[attr-defined]
    return called
