"""Whether whole modules may leave something in lists and dicts they are given, or on tensors, on other inputs only."""

from __future__ import annotations

import dis
import functools
import itertools
import types
from typing import Any

from torch import nn

from fxfeat.ir.module_call import ModuleCall, ancestors
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import is_structure, walk
from fxfeat.isolation.reached_code import functions_of

_CHANGES = frozenset(
    ("append", "appendleft", "extend", "insert", "remove", "clear", "pop", "popitem", "update", "setdefault", "add")
)
_CHANGING_STEPS = ("STORE_SUBSCR", "DELETE_SUBSCR")


def may_leave_behind(recording: Recording, call: ModuleCall) -> bool:
    """Say whether the code that runs in a module call holds what changes a container it is given, or marks a tensor.

    Args:
        recording: what was recorded.
        call: one that was not seen to leave anything behind.
    """
    calls = recording.module_calls
    # A slice would copy all that comes after it, for each call.
    later = (calls[index] for index in range(call.index + 1, len(calls)))
    inner = itertools.takewhile(lambda other: call.index in ancestors(calls, other.index), later)
    inside = [call, *inner]
    codes = {other.index: _codes_of(_kind_at(recording, other.path)) for other in inside}
    if any(_marks(code) for every in codes.values() for code in every):
        return True
    given = [other for other in inside if _takes_containers(other)] if _takes_containers(call) else []
    return any(_changes(code) for other in given for code in codes[other.index])


def _kind_at(recording: Recording, path: str) -> Any:
    try:
        return type(recording.root.get_submodule(path))
    except AttributeError:  # it was cut off the model by now: nothing that is left calls it
        return nn.Identity


@functools.lru_cache(maxsize=4096)
def _codes_of(kind: Any) -> tuple[types.CodeType, ...]:
    return tuple(function.__code__ for function in functions_of([kind]))


def _takes_containers(call: ModuleCall) -> bool:
    return any(
        isinstance(part, (list, dict)) for value in (*call.args, *call.kwargs.values()) for part in _parts(value)
    )


def _parts(value: Any) -> list[Any]:
    return [part for _, part in walk(value, (), is_structure)]


@functools.lru_cache(maxsize=4096)
def _changes(code: types.CodeType) -> bool:
    """Say whether code names what changes a list or a dict.

    >>> _changes((lambda x: x.append(1)).__code__), _changes((lambda x: x.relu()).__code__)
    (True, False)
    """
    return not _CHANGES.isdisjoint(code.co_names) or any(step.opname in _CHANGING_STEPS for step in _steps(code))


@functools.lru_cache(maxsize=4096)
def _marks(code: types.CodeType) -> bool:
    """Say whether code sets an attribute of anything but what its first argument holds.

    >>> def mark(self, x):
    ...     x.seen = True
    >>> _marks(mark.__code__)
    True
    """
    own = code.co_varnames[:1]
    steps = _steps(code)
    stores = [before for before, step in itertools.pairwise(steps) if step.opname == "STORE_ATTR"]
    owners = [step for step in stores if step.opname.startswith("LOAD_FAST")]
    # Some steps load two variables at once, the last of which is what is set on.
    names = [step.argval[-1:] if isinstance(step.argval, tuple) else (step.argval,) for step in owners]
    return any(name != own for name in names)


def _steps(code: types.CodeType) -> list[dis.Instruction]:
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return [*dis.get_instructions(code), *(step for part in inner for step in _steps(part))]
