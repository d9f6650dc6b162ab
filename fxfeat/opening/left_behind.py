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
from fxfeat.ir.writing_code import CHANGING_METHODS, CHANGING_STEPS
from fxfeat.isolation.reached_code import functions_of
from fxfeat.trace.builder.given_containers import contents_of


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
    if any(_marks(_kind_at(recording, other.path)) for other in inside):
        return True
    given = [other for other in inside if _takes_containers(other)] if _takes_containers(call) else []
    return any(_changes(_kind_at(recording, other.path)) for other in given)


def _kind_at(recording: Recording, path: str) -> Any:
    # One that was cut off the model by now is called by nothing that is left.
    return type(recording.modules[path]) if path in recording.modules else nn.Identity


def _takes_containers(call: ModuleCall) -> bool:
    return bool(contents_of((*call.args, *call.kwargs.values())))


@functools.lru_cache(maxsize=4096)
def _changes(kind: Any) -> bool:
    """Say whether the code of a class of modules names what changes a list or a dict."""
    return any(_changes_containers(function.__code__) for function in functions_of([kind]))


@functools.lru_cache(maxsize=4096)
def _marks(kind: Any) -> bool:
    """Say whether the code of a class of modules sets attributes of what is not the module's."""
    return any(_marks_others(function.__code__) for function in functions_of([kind]))


def _changes_containers(code: types.CodeType) -> bool:
    """Say whether code names what changes a list or a dict.

    >>> _changes_containers((lambda x: x.append(1)).__code__), _changes_containers((lambda x: x.relu()).__code__)
    (True, False)
    """
    names_it = not CHANGING_METHODS.isdisjoint(code.co_names)
    return names_it or any(step.opname in CHANGING_STEPS for step in _steps(code))


def _marks_others(code: types.CodeType) -> bool:
    """Say whether code sets an attribute of anything but what its first argument holds.

    >>> def mark(self, x):
    ...     x.seen = True
    >>> _marks_others(mark.__code__)
    True
    """
    own = code.co_varnames[:1]
    stores = [before for before, step in itertools.pairwise(_steps(code)) if step.opname == "STORE_ATTR"]
    owners = [step for step in stores if step.opname.startswith("LOAD_FAST")]
    # Some steps load two variables at once, the last of which is what is set on.
    names = [step.argval[-1:] if isinstance(step.argval, tuple) else (step.argval,) for step in owners]
    return any(name != own for name in names)


def _steps(code: types.CodeType) -> list[dis.Instruction]:
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return [*dis.get_instructions(code), *(step for part in inner for step in _steps(part))]
