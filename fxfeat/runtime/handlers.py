"""Tell whether code would notice an exception that passes through it: a model's ``try`` and ``with`` may act on it."""

from __future__ import annotations

import dis
import functools
import itertools
import sys
import types

from fxfeat.ir.source_lines import is_torch

_LETTING_PASS = ("torch", "contextlib", "fxfeat")
_SETUPS = ("SETUP_FINALLY", "SETUP_WITH", "SETUP_ASYNC_WITH")


def would_notice(frame: types.FrameType | None, last: types.FrameType | None) -> bool:
    """Say whether an exception raised in a frame meets a handler of the model's own on its way to another.

    Torch's own handlers let pass what is no ``Exception``.

    Args:
        frame: where it is raised.
        last: the frame that catches it, further out.
    """
    while frame is not None and frame is not last:
        if not is_torch(frame) and is_handled(frame.f_code, frame.f_lasti):
            return True
        frame = frame.f_back
    return False


def is_handled(code: types.CodeType, instruction: int) -> bool:
    """Say whether an instruction stands inside a ``try``, a ``with`` or what else acts on exceptions.

    >>> def tries(x):
    ...     try:
    ...         return x()
    ...     finally:
    ...         pass
    >>> calls = [step.offset for step in dis.get_instructions(tries) if step.opname.startswith("CALL")]
    >>> is_handled(tries.__code__, calls[-1]), is_handled(tries.__code__, 0)
    (True, False)
    """
    return any(start <= instruction < stop for start, stop in _handled_ranges(code))


@functools.lru_cache(maxsize=16384)
def is_caught(code: types.CodeType, instruction: int) -> bool:
    """Say whether an instruction stands inside a ``try`` with an ``except``, which may go on where it fails.

    >>> def catches(x):
    ...     try:
    ...         return x()
    ...     except ValueError:
    ...         return None
    >>> calls = [step.offset for step in dis.get_instructions(catches) if step.opname.startswith("CALL")]
    >>> is_caught(catches.__code__, calls[-1]), is_caught(catches.__code__, 0)
    (True, False)
    """
    if sys.version_info < (3, 11):
        steps = list(dis.get_instructions(code))
        starts = [step for step in steps if step.opname == "SETUP_FINALLY" and step.offset < instruction < step.argval]
        return any(_goes_on(steps, int(start.argval)) for start in starts)
    # The table leads to the innermost handler, and from there to the next one around.
    handlers = _handlers_around(code, instruction)
    steps = list(dis.get_instructions(code)) if handlers else []
    return any(_goes_on(steps, target) for target in handlers)


def _handlers_around(code: types.CodeType, instruction: int) -> list[int]:
    entries = dis._parse_exception_table(code)  # type: ignore[attr-defined]  # nothing public reads it
    handlers: list[int] = []
    waiting = [instruction]
    while waiting:
        place = waiting.pop()
        targets = {entry.target for entry in entries if entry.start <= place < entry.end}.difference(handlers)
        handlers += targets
        waiting += targets
    return handlers


def may_swallow(frame: types.FrameType) -> bool:
    """Say whether a frame stands inside a ``with`` of a class of the model's own, which may end an error."""
    lines = _lines_of_with(frame.f_code, frame.f_lasti)
    names = {name for line, name in _names_by_line(frame.f_code) if line in lines} if lines else set()
    values = (frame.f_locals.get(name, frame.f_globals.get(name)) for name in names)
    return any(_swallows(value if isinstance(value, type) else type(value)) for value in values)


@functools.lru_cache(maxsize=16384)
def _lines_of_with(code: types.CodeType, instruction: int) -> frozenset[int]:
    if sys.version_info < (3, 11):
        return frozenset()
    entries = dis._parse_exception_table(code)  # type: ignore[attr-defined]  # nothing public reads it
    targets = {entry.target for entry in entries if entry.start <= instruction < entry.end}
    lines = {start: line for start, _, line in code.co_lines()}
    steps = [step for step in dis.get_instructions(code) if step.opname == "PUSH_EXC_INFO"] if targets else []
    return frozenset(line for step in steps if step.offset in targets and (line := lines.get(step.offset)) is not None)


@functools.lru_cache(maxsize=4096)
def _names_by_line(code: types.CodeType) -> tuple[tuple[int, str], ...]:
    spans = [(start, stop, line) for start, stop, line in code.co_lines() if line is not None]
    loads = [
        step for step in dis.get_instructions(code) if step.opname.startswith("LOAD_") and step.argval.__class__ is str
    ]
    return tuple((line, load.argval) for load in loads for start, stop, line in spans if start <= load.offset < stop)


@functools.lru_cache(maxsize=4096)
def _swallows(kind: type) -> bool:
    leave = getattr(kind, "__exit__", None)
    if not isinstance(leave, types.FunctionType) or leave.__module__.partition(".")[0] in _LETTING_PASS:
        return False
    steps = list(dis.get_instructions(leave))
    returned = [before for before, step in itertools.pairwise(steps) if step.opname == "RETURN_VALUE"]
    returned += [step for step in steps if step.opname == "RETURN_CONST"]
    return any(not (step.opname in ("LOAD_CONST", "RETURN_CONST") and not step.argval) for step in returned)


def _goes_on(steps: list[dis.Instruction], target: int) -> bool:
    """Say whether a handler may go on behind what it handles: one of ``finally`` does not, nor one that always raises.

    A handler that is left in another way lets go of the error first; at its end, that is followed by raising it again.
    """
    inside = [step.opname for step in steps if step.offset >= target]
    for name, then in itertools.pairwise([*inside, ""]):
        if name == "WITH_EXCEPT_START":
            return False
        if name == "POP_EXCEPT":
            return then != "RERAISE"
    return False


@functools.lru_cache(maxsize=4096)
def _handled_ranges(code: types.CodeType) -> tuple[tuple[int, int], ...]:
    if sys.version_info >= (3, 11):
        entries = dis._parse_exception_table(code)  # type: ignore[attr-defined]  # nothing public reads it
        return tuple((entry.start, entry.end) for entry in entries)
    steps = dis.get_instructions(code)
    return tuple((step.offset + 1, int(step.argval)) for step in steps if step.opname in _SETUPS)
