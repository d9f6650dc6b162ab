"""What one run of a model leaves behind: a graph of every call, and a tree of module calls.

Invariants:

- a node's ``meta_of(node).position`` is its index in ``graph.nodes``;
- module calls nest: a module call's nodes lie inside its parent's, and module call 0 is the root's;
- a node is owned by the innermost module call around it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx

from fxfeat.ir.guard import AttributeWrite, Guard, Unsupported
from fxfeat.ir.module_call import ModuleCall
from fxfeat.ir.node_meta import Storage

Kind = Literal["meta", "fake", "real"]


@dataclass(frozen=True)
class Recording:
    """Everything one run of a model left behind.

    ``writes_state`` says that the run wrote to tensors or settings that the model keeps, or that no one can tell;
    ``changed`` and ``altered`` are what it changed in Python.
    """

    graph: fx.Graph
    module_calls: tuple[ModuleCall, ...]
    guards: tuple[Guard, ...]
    result: Any
    kind: Kind
    training: bool
    root: torch.nn.Module
    tensors: dict[str, Any]
    persistent: frozenset[Storage]
    opened: frozenset[str]
    signature: Any
    dtype_reads: tuple[tuple[fx.Node, torch.dtype], ...] = ()
    unsupported: tuple[Unsupported, ...] = ()
    attribute_writes: tuple[AttributeWrite, ...] = ()
    changed: tuple[tuple[str, str], ...] = ()
    mutated: frozenset[int] = frozenset()
    writes_state: bool = True
    reads_values: bool = False
    asks_gradients: bool = False
    writes_parameters: bool = False

    @property
    def is_stateless(self) -> bool:
        """Whether the run changed nothing that the model keeps, as another on inputs of these sizes will not."""
        return not (self.changed or self.mutated or self.writes_state)

    @functools.cached_property
    def nodes(self) -> list[fx.Node]:
        """The nodes by position."""
        return list(self.graph.nodes)
