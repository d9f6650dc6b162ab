"""Check that a module that stays whole returns what it returned while recording, but for the values of its tensors."""

from __future__ import annotations

import inspect
from typing import Any

from torch import fx

from fxfeat.ir.module_call import ModuleCall
from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.tree import is_structure, leaves_of, replace_at, walk
from fxfeat.opening.returned_kinds import kinds_returned, names_none
from fxfeat.passes.call_meta import only_value
from fxfeat.passes.outlined_graph import OutlinedGraph, add_function
from fxfeat.runtime.check import check
from fxfeat.runtime.form_of import TENSOR, Keys, form_of
from fxfeat.trace.leaves import is_of_torch


def check_result(outlined: OutlinedGraph, module_call: ModuleCall, call: fx.Node) -> None:
    """Write a check of a result's form, unless the module's code shows that it has no other.

    Args:
        outlined: the graph to write to.
        module_call: the call that was recorded.
        call: its node.
    """
    module = outlined.recording.root.get_submodule(module_call.path)
    if is_of_torch(module) or module_call.mutated:
        return
    if _has_one_form(module_call.form, inspect.getattr_static(module, "forward", None)):
        return
    expected, free = module_call.form, module_call.free
    if module_call.index in outlined.mutates_python:
        expected, free = _free_numbers(expected, free)
    meta = only_value(meta_of(call), None)
    form = add_function(outlined, form_of, (call, free) if free else (call,), meta)
    place = f"what {module_call.path!r} ({type(module).__name__}) returns"
    add_function(outlined, check, (form, expected, place), meta)


def _free_numbers(form: Any, free: tuple[Keys, ...]) -> tuple[Any, tuple[Keys, ...]]:
    """Leave numbers unchecked where a module counts in Python."""
    numbers = [steps for steps, part in walk(form, (), is_structure) if type(part) in (int, float)]
    for steps in numbers:
        form = replace_at(form, steps, ...)
    return form, (*free, *(tuple(key for _, key in steps) for steps in numbers))


def _has_one_form(form: Any, forward: Any) -> bool:
    """Say whether a module's code returns one form only: a tensor, or as many of them each time."""
    kinds = kinds_returned(forward)
    if not isinstance(form, (tuple, list, dict)):
        return len(kinds) < 2 or form != TENSOR
    is_built = all(kind in ("tuple", "dict") for kind, _ in kinds)
    is_all_tensors = all(leaf == TENSOR for leaf in leaves_of(form))
    return len(kinds) == 1 and is_built and is_all_tensors and not names_none(forward)
