"""What a name means whose value was replaced: what the model's code goes on with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import fx, nn

from fxfeat.errors import RequestError
from fxfeat.ir.feature import Feature
from fxfeat.ir.module_call import ModuleCall
from fxfeat.ir.node_meta import TensorMeta, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import follow, map_nodes


def read_replace(replace: Any) -> Mapping[str, Callable[[Any], Any]]:
    """Check what was given as ``replace``.

    >>> read_replace(None)
    {}

    Raises:
        RequestError: where it is no mapping from names to functions.
    """
    if replace is None:
        return {}
    if not isinstance(replace, Mapping):
        raise RequestError(
            f"replace is a {type(replace).__name__}; it must be a mapping from name to function, as in "
            "replace={'layer3': torch.zeros_like}."
        )
    for name, function in replace.items():
        if not isinstance(name, str):
            raise RequestError(f"replace holds {name!r}, a {type(name).__name__}; names are strings.")
        if not callable(function) or (isinstance(function, type) and issubclass(function, nn.Module)):
            raise RequestError(
                f"replace gives {name!r} to {function!r}; it must be a function or a module that takes the value and "
                "returns another."
            )
    return dict(replace)


def call_replaced(recording: Recording, module_call: ModuleCall | None, node: fx.Node | None) -> ModuleCall | None:
    """Return a call that returns what was put in place of a value, if that was replaced.

    Args:
        recording: the recording.
        module_call: the module call that returned the value.
        node: the node that computed it.
    """
    owner = module_call if node is None else recording.module_calls[meta_of(node).module_call]
    is_leaf = node is None or (owner is not None and owner.leaf and node.op == "call_module")
    for replaced in reversed(recording.replaced):
        is_result = is_leaf and owner is not None and replaced.module_call == owner.index
        if is_result or (node is not None and replaced.node is node):
            call = recording.module_calls[meta_of(replaced.call).module_call] if owner is None else owner
            return dataclasses.replace(
                call, result=replaced.result, result_nodes=replaced.result_nodes, stop=replaced.produced_at
            )
    return None


def spell_before(feature: Feature) -> str:
    """Spell what a value is where it is not replaced."""
    value = follow(map_nodes(feature.value, lambda node: meta_of(node).value), feature.steps)
    if isinstance(value, TensorMeta):
        return f"{value.shape} {str(value.dtype).removeprefix('torch.')}"
    return f"a {type(value).__name__}"
