"""Spell one node as a Python expression."""

from __future__ import annotations

import operator
import types
from collections.abc import Callable, Container
from typing import Any

from torch import fx

from fxfeat.codegen.globals import Globals, is_identifier

_INFIX = {
    **{operator.add: "+", operator.sub: "-", operator.mul: "*", operator.truediv: "/", operator.floordiv: "//"},
    **{operator.mod: "%", operator.pow: "**", operator.matmul: "@", operator.and_: "&", operator.or_: "|"},
    **{operator.xor: "^", operator.lshift: "<<", operator.rshift: ">>", operator.eq: "==", operator.ne: "!="},
    **{operator.is_: "is", operator.lt: "<", operator.le: "<=", operator.gt: ">", operator.ge: ">="},
}
_PREFIX = {operator.neg: "-", operator.pos: "+", operator.invert: "~"}
IN_PLACE = {
    **{operator.iadd: "+=", operator.isub: "-=", operator.imul: "*=", operator.itruediv: "/=", operator.ipow: "**="},
    **{operator.ifloordiv: "//=", operator.imod: "%=", operator.imatmul: "@=", operator.iand: "&="},
    **{operator.ior: "|=", operator.ixor: "^=", operator.ilshift: "<<=", operator.irshift: ">>="},
}


class Speller:
    """Spells nodes, given how to spell the nodes they use and how to reach what ``self`` holds."""

    def __init__(
        self,
        names: Globals,
        variable: Callable[[fx.Node], str],
        reach: Callable[[str], str],
        overriding: Container[str] = (),
    ) -> None:
        self._names = names
        self._overriding = overriding
        self._variable = variable
        self._reach = reach

    def node(self, node: fx.Node) -> str:
        """Spell what a node computes."""
        if node.op == "get_attr":
            return self._reach(str(node.target))
        if node.op == "call_module":
            callee, arguments = self._reach(str(node.target)), self._arguments(node.args, node.kwargs)
            if str(node.target) in self._overriding:
                # What the class adds in its own __call__ is written out around this.
                return f"{self._names.torch()}.nn.Module.__call__({', '.join(filter(None, (callee, arguments)))})"
            return f"{callee}({arguments})"
        if node.op == "call_method":
            owner = self._operand(node.args[0])
            return f"{owner}.{node.target}({self._arguments(node.args[1:], node.kwargs)})"
        return self._function(node)

    def _function(self, node: fx.Node) -> str:
        target: Any = node.target
        if target in _INFIX and len(node.args) == 2 and not node.kwargs:
            left, right = (self._operand(operand) for operand in node.args)
            return f"{left} {_INFIX[target]} {right}"
        if target in _PREFIX and len(node.args) == 1:
            return f"{_PREFIX[target]}{self._operand(node.args[0])}"
        if target is operator.getitem:
            return f"{self._operand(node.args[0])}[{self.index(node.args[1])}]"
        if target is getattr and isinstance(node.args[1], str) and is_identifier(node.args[1]):
            return f"{self._operand(node.args[0])}.{node.args[1]}"
        return f"{self._names.spell(target)}({self._arguments(node.args, _said(target, node.kwargs))})"

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        positional = [self.value(argument) for argument in args]
        named = [f"{name}={self.value(argument)}" for name, argument in kwargs.items() if is_identifier(name)]
        rest = {name: argument for name, argument in kwargs.items() if not is_identifier(name)}
        spread = [f"**{self.value(rest)}"] if rest else []
        return ", ".join([*positional, *named, *spread])

    def _operand(self, value: Any) -> str:
        spelled = self.value(value)
        simple = not isinstance(value, (int, float)) and _is_simple(spelled)
        return spelled if simple or (isinstance(value, (int, float)) and value >= 0) else f"({spelled})"

    def index(self, key: Any) -> str:
        """Spell what stands between brackets."""
        if isinstance(key, slice):
            parts = ["" if part is None else self.value(part) for part in (key.start, key.stop)]
            step = "" if key.step is None else f":{self.value(key.step)}"
            return f"{parts[0]}:{parts[1]}{step}"
        if isinstance(key, tuple) and key:
            return ", ".join(self.index(part) for part in key) + ("," if len(key) == 1 else "")
        return self.value(key)

    def value(self, value: Any) -> str:
        """Spell an argument: a variable, a literal or a structure of them."""
        if isinstance(value, fx.Node):
            return self._variable(value)
        if isinstance(value, slice):
            parts = ", ".join(self.value(part) for part in (value.start, value.stop, value.step))
            return f"{self._names.builtin('slice')}({parts})"
        if isinstance(value, tuple):
            return f"({', '.join(map(self.value, value))}{',' if len(value) == 1 else ''})"
        if isinstance(value, list):
            return f"[{', '.join(map(self.value, value))}]"
        if isinstance(value, dict):
            pairs = (f"{self._names.literal(key)}: {self.value(part)}" for key, part in value.items())
            return "{" + ", ".join(pairs) + "}"
        return self._names.literal(value)


def _is_simple(text: str) -> bool:
    """Say whether an expression binds tighter than any operator: names, dots, calls and brackets."""
    depth = 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if depth == 0 and letter in " -+~":
            return False
    return True


def _said(function: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is the default anyway; torch's own wrappers pass every argument on."""
    if not isinstance(function, types.FunctionType):
        return kwargs
    defaults = function.__kwdefaults__ or {}
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    values = function.__defaults__ or ()
    defaults = {**dict(zip(names[len(names) - len(values) :], values, strict=True)), **defaults}
    return {
        name: argument
        for name, argument in kwargs.items()
        if name not in defaults or not _is_same(argument, defaults[name])
    }


def _is_same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and isinstance(value, (int, float, str, bool, type(None))) and value == default
