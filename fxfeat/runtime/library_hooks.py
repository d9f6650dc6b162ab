"""Hooks that a library puts on its own modules to look at what they return, such as transformers' at a first call."""

from __future__ import annotations

import dis
import functools
import sysconfig
from collections.abc import Iterable
from types import CodeType, FunctionType
from typing import Any

from torch import nn

from fxfeat.ir.source_lines import is_library
from fxfeat.ir.writing_code import names_in_place, stores_in_place

_CHANGES = frozenset(("STORE_ATTR", "STORE_SUBSCR", "DELETE_ATTR", "DELETE_SUBSCR"))


def only_look(module: nn.Module, hooks: Iterable[Any]) -> bool:
    """Say whether hooks after a module's ``forward`` are its own library's, and leave what it returned as it is.

    Such a hook is a function of an installed package, of which a class of the module is too, that returns nothing and
    sets nothing. Whoever did not put it there does not miss it where code is written out.
    """
    return all(_is_of_library(module, hook) and _leaves_result(hook.__code__) for hook in hooks)


def may_write(hook: Any) -> bool:
    """Say whether a hook before ``forward`` may write to what the module is given; torch's own set weights up.

    >>> may_write(lambda module, args: args[0].mul_(2)), may_write(lambda module, args: (args[0] * 2,))
    (True, False)
    """
    function = hook if isinstance(hook, FunctionType) else getattr(hook, "__func__", type(hook).__call__)
    if not isinstance(function, FunctionType):
        return True
    return not is_library(function) and _writes(function.__code__)


@functools.cache
def _writes(code: CodeType) -> bool:
    return names_in_place(code) or stores_in_place(code)


def _is_of_library(module: nn.Module, hook: Any) -> bool:
    if not isinstance(hook, FunctionType):
        return False
    package = hook.__module__.partition(".")[0]
    # Every module is PyTorch's.
    kinds = {kind.__module__.partition(".")[0] for kind in type(module).__mro__} - {"torch"}
    installed = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    return package in kinds and hook.__code__.co_filename.startswith(installed)


@functools.cache
def _leaves_result(code: CodeType) -> bool:
    """Say whether a function returns None wherever it ends, and writes to nothing in place."""
    if names_in_place(code):
        return False
    steps = list(dis.get_instructions(code))
    if any(step.opname in _CHANGES or "YIELD" in step.opname for step in steps):
        return False
    returns = [index for index, step in enumerate(steps) if step.opname in ("RETURN_VALUE", "RETURN_CONST")]
    return all(_gives_none(steps, index) for index in returns)


def _gives_none(steps: list[dis.Instruction], index: int) -> bool:
    step, before = steps[index], steps[max(index - 1, 0)]
    if step.opname == "RETURN_CONST":
        return step.argval is None
    return not step.is_jump_target and before.opname == "LOAD_CONST" and before.argval is None
