"""Check that a module that stays whole returns what it returned while recording, but for the values of its tensors."""

from __future__ import annotations

import inspect
from typing import Any

from torch import fx

from fxfeat.ir.module_call import ModuleCall
from fxfeat.ir.node_meta import TensorMeta, meta_of
from fxfeat.ir.tree import is_structure, leaves_of, map_structure, walk
from fxfeat.opening.returned_kinds import kinds_returned, names_none
from fxfeat.passes.call_meta import only_value
from fxfeat.passes.outlined_graph import OutlinedGraph, add_function
from fxfeat.runtime.check import check
from fxfeat.runtime.form_of import TENSOR, form_of
from fxfeat.trace.leaves import is_of_torch

_NUMBERS = (bool, int, float, complex)
_PLAIN = (type(None), str, *_NUMBERS)


def check_result(outlined: OutlinedGraph, module_call: ModuleCall, call: fx.Node) -> None:
    """Write a check of a result's form, unless the module's code shows that it has no other.

    Args:
        outlined: the graph to write to.
        module_call: the call that was recorded.
        call: its node.
    """
    module = outlined.recording.root.get_submodule(module_call.path)
    forward = inspect.getattr_static(module, "forward", None)
    leaves = leaves_of(module_call.result)
    if is_of_torch(module) or module_call.mutated or not all(map(_has_form, leaves)):
        return
    if _has_one_form(module_call.result, forward, leaves):
        return
    parts = walk(module_call.result, (), is_structure)
    free = tuple(
        tuple(key for _, key in steps) for steps, part in parts if isinstance(part, fx.Node) and not _is_tensor(part)
    )
    meta = only_value(meta_of(call), None)
    form = add_function(outlined, form_of, (call, free) if free else (call,), meta)
    place = f"what {module_call.path!r} ({type(module).__name__}) returns"
    add_function(outlined, check, (form, _spell_form(module_call.result), place), meta)


def _has_one_form(result: Any, forward: Any, leaves: list[Any]) -> bool:
    """Say whether a module's code returns one form only: a tensor, or as many of them each time."""
    kinds = kinds_returned(forward)
    if isinstance(result, fx.Node):
        return len(kinds) < 2 or not _is_tensor(result)
    is_all_tensors = all(isinstance(leaf, fx.Node) and _is_tensor(leaf) for leaf in leaves)
    is_built = all(kind in ("tuple", "dict") for kind, _ in kinds)
    return len(kinds) == 1 and is_built and is_all_tensors and not names_none(forward)


def _has_form(leaf: Any) -> bool:
    """Say whether the form of a part can be told: not that of a shape, or of an object."""
    return (
        isinstance(meta_of(leaf).value, (TensorMeta, *_NUMBERS)) if isinstance(leaf, fx.Node) else type(leaf) in _PLAIN
    )


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(meta_of(node).value, TensorMeta)


def _spell_form(result: Any) -> Any:
    def spell(part: Any) -> Any:
        if not isinstance(part, fx.Node):
            return part
        return TENSOR if _is_tensor(part) else ...

    return map_structure(result, spell)
