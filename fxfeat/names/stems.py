"""The last part of a node's name: what torch.fx would call the operation."""

from __future__ import annotations

import operator
import re

from torch import fx

_IN_PLACE = {
    getattr(operator, f"i{name.rstrip('_')}"): name
    for name in ("add", "and_", "floordiv", "lshift", "matmul", "mod", "mul", "or_", "pow", "rshift", "sub", "truediv")
}
_IN_PLACE[operator.ixor] = "xor"


def stem(node: fx.Node) -> str:
    """Return the operation's name as torchvision spells it; ``x += y`` is ``add``.

    Source: torch.fx's names for nodes.
    """
    if node.op == "placeholder":
        return str(node.target).lstrip("*")
    target = node.target
    if target in _IN_PLACE:
        return _IN_PLACE[target]
    written = target if isinstance(target, str) else getattr(target, "__name__", type(target).__name__)
    if written.startswith("__") and written.endswith("__"):
        written = written[2:-2]
    return _without_number(_identifier(_snake_case(written)))


def _snake_case(text: str) -> str:
    return re.sub(r"(?<=[a-z])([A-Z])", r"_\1", text).lower()


def _identifier(text: str) -> str:
    kept = "".join(letter if letter.isalnum() or letter == "_" else "_" for letter in text)
    return f"_{kept}" if kept[:1].isdigit() else kept


def _without_number(text: str) -> str:
    """torchvision takes a number at the end of an operation's name for a counter."""
    head, _, tail = text.rpartition("_")
    return head if head and tail.isdigit() else text
