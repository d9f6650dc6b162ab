"""What kinds of results a function returns at its ends, as its code shows."""

from __future__ import annotations

import dis
import functools
from typing import Any

_RETURNS = ("RETURN_VALUE", "RETURN_CONST")
_CONSTANTS = ("RETURN_CONST", "LOAD_CONST")
_BUILDS = {"BUILD_TUPLE": "tuple", "BUILD_LIST": "list", "BUILD_MAP": "dict", "BUILD_CONST_KEY_MAP": "dict"}


@functools.lru_cache(maxsize=4096)
def kinds_returned(function: Any) -> frozenset[tuple[str, Any]]:
    """List the kinds of results of a function, each with its length where the code shows it.

    Example:
        >>> sorted(kinds_returned(lambda x: (x, x) if x > 0 else None))
        [('None', None), ('tuple', 2)]
        >>> kinds_returned(lambda x: x + 1)
        frozenset({('other', None)})

    Args:
        function: one in Python; of any other nothing is known.
    """
    code = getattr(function, "__code__", None)
    steps = list(dis.get_instructions(code)) if code is not None else []
    before = dict(zip(steps[1:], steps, strict=False))
    returns = [step for step in steps if step.opname in _RETURNS]
    ends = [step if step.opname == "RETURN_CONST" else before.get(step) for step in returns]
    # Either side of an `a if b else c` goes on to one return.
    targets = {step.offset for step in returns}
    ends += [before.get(step) for step in steps if step.opname == "JUMP_FORWARD" and step.argval in targets]
    return frozenset(_kind_of(end) for end in ends if end is not None)


@functools.lru_cache(maxsize=4096)
def names_none(function: Any) -> bool:
    """Say whether a function's code uses None, as what it returns beside a tensor say.

    >>> names_none(lambda x, m: (x, m if m.any() else None)), names_none(lambda x: (x, x))
    (True, False)
    """
    code = getattr(function, "__code__", None)
    steps = dis.get_instructions(code) if code is not None else ()
    return any(step.opname in _CONSTANTS and step.argval is None for step in steps)


def _kind_of(end: dis.Instruction) -> tuple[str, Any]:
    if end.opname in _CONSTANTS:
        return ("None" if end.argval is None else "constant"), None
    kind = _BUILDS.get(end.opname, "other")
    return kind, end.arg if kind == "tuple" else None
