"""What is known of the nodes that stand for whole module calls, and for parts of what they return."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import fx

from fxfeat.ir.module_call import ModuleCall
from fxfeat.ir.node_meta import NodeMeta, meta_of
from fxfeat.ir.tree import Steps


def only_value(meta: NodeMeta, value: Any, aliases: frozenset[Any] = frozenset()) -> NodeMeta:
    """Describe a value that is made where another node stands, by code with no effect of its own."""
    return NodeMeta(meta.position, meta.module_call, value, aliases=aliases, contexts=meta.contexts)


def pick_value(meta: NodeMeta, steps: Steps) -> NodeMeta:
    """Describe the part of a value at some steps."""
    value = meta.value
    for _, step in steps:
        value = value[step]
    return dataclasses.replace(meta, value=value, reads=frozenset(), writes=frozenset(), draws=False)


def sum_up(module_call: ModuleCall, inside: list[NodeMeta]) -> NodeMeta:
    """Add up what the nodes of a module call read, wrote and drew."""
    nothing: frozenset[Any] = frozenset()
    leaves = [meta_of(node) for _, node in module_call.result_nodes]
    result = meta_of(module_call.result) if isinstance(module_call.result, fx.Node) else None
    return NodeMeta(
        position=module_call.start,
        module_call=module_call.index,
        value=result.value if result else tuple(meta.value for meta in leaves),
        reads=nothing.union(*(meta.reads | meta.aliases for meta in inside)),
        writes=nothing.union(*(meta.writes for meta in inside)),
        aliases=nothing.union(*(meta.aliases for meta in leaves)),
        draws=any(meta.draws for meta in inside),
        contexts=module_call.contexts,
    )
