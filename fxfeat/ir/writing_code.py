"""What in a function's bytecode writes to something in place."""

from __future__ import annotations

import dis
from types import CodeType

STORES = frozenset(("STORE_SUBSCR", "STORE_SLICE"))
"""Steps that put something in the place of an item or a slice."""

CHANGING_STEPS = STORES | {"DELETE_SUBSCR"}
CHANGING_METHODS = frozenset(
    ("append", "appendleft", "extend", "insert", "remove", "clear", "pop", "popitem", "update", "setdefault", "add")
)
"""What changes a list, a dict or a set."""


def names_in_place(code: CodeType) -> bool:
    """Say whether code names a method of torch's that writes to the tensor it is of.

    >>> names_in_place((lambda x: x.mul_(2)).__code__), names_in_place((lambda x: x.mul(2)).__code__)
    (True, False)
    """
    return any(name.endswith("_") and not name.startswith("_") for name in code.co_names)


def stores_in_place(code: CodeType) -> bool:
    """Say whether code puts something into a tensor or a container, or uses an operator such as ``+=``.

    >>> def add(x):
    ...     x += 1
    >>> stores_in_place(add.__code__), stores_in_place((lambda x: x + 1).__code__)
    (True, False)
    """
    return any(step.opname in STORES or _is_in_place(step) for step in dis.get_instructions(code))


def _is_in_place(step: dis.Instruction) -> bool:
    return step.opname.startswith("INPLACE_") or (step.opname == "BINARY_OP" and step.argrepr.endswith("="))
