"""Spell a torch function call as an fx call: the operation, its target, and its arguments in reading order."""

from __future__ import annotations

import dis
import operator
import types
from collections.abc import Callable, Hashable
from typing import Any

import torch
import torch.nn.functional as F

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

_STATISTICS = {
    F.batch_norm: ("input", "running_mean", "running_var", "weight", "bias", "training"),
    F.instance_norm: ("input", "running_mean", "running_var", "weight", "bias", "use_input_stats"),
    torch.batch_norm: ("input", "weight", "bias", "running_mean", "running_var", "training"),
    torch.instance_norm: ("input", "weight", "bias", "running_mean", "running_var", "use_input_stats"),
}
"""Arguments of functions that update running statistics, which meta tensors do not show."""


def attribute_of(function: Callable[..., Any]) -> str | None:
    """Return the attribute that a property getter or setter of ``torch.Tensor`` stands for."""
    if getattr(function, "__name__", "") not in ("__get__", "__set__", "__delete__"):
        return None
    owner = getattr(function, "__self__", None)
    return getattr(owner, "__name__", None) or getattr(getattr(owner, "fget", None), "__name__", None)


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


def keeps_statistics(function: Any) -> bool:
    """Say whether a function normalises by statistics of its input, where it updates those it is given.

    >>> keeps_statistics(F.batch_norm), keeps_statistics(F.layer_norm)
    (True, False)
    """
    return isinstance(function, Hashable) and function in _STATISTICS


def sets_data(function: Any) -> bool:
    """Say whether a function is what runs for ``x.data = y``.

    >>> sets_data(torch.Tensor.data.__set__), sets_data(torch.Tensor.data.__get__)
    (True, False)
    """
    return getattr(function, "__name__", "") == "__set__" and attribute_of(function) == "data"


def written_by(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """List the tensors that a call writes by its schema or its name, where no version counter tells.

    >>> len(written_by(torch._foreach_mul_, ([torch.zeros(1)], 2.0), {}))
    1
    """
    if sets_data(function):
        return [args[0]]
    if getattr(function, "__name__", "").startswith("_foreach") and function.__name__.endswith("_"):
        return list(args[0])
    if keeps_statistics(function):
        given = dict(zip(_STATISTICS[function], args, strict=False)) | kwargs
        updates = given.get("training", given.get("use_input_stats", function is F.instance_norm))
        held = (given.get(name) for name in ("running_mean", "running_var"))
        return [tensor for tensor in held if isinstance(tensor, torch.Tensor)] if updates else []
    overloads = [function] if isinstance(function, torch._ops.OpOverload) else []
    if isinstance(function, torch._ops.OpOverloadPacket):
        overloads = [getattr(function, name) for name in function.overloads()]
    found: list[torch.Tensor] = []
    for overload in overloads:
        for index, argument in enumerate(overload._schema.arguments):
            value = args[index] if index < len(args) else kwargs.get(argument.name)
            if argument.alias_info and argument.alias_info.is_write and isinstance(value, torch.Tensor):
                found.append(value)
    return found


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
