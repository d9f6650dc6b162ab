"""What one run of a model leaves behind: a graph of every call, and a tree of module calls.

Invariants, which ``lint`` checks:

- a node's ``meta_of(node).position`` is its index in ``graph.nodes``;
- module calls nest: a module call's nodes lie inside its parent's, and module call 0 is the root's;
- a node is owned by the innermost module call around it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import fx

from fxfeat.ir.guard import Answer, AttributeRead, AttributeWrite, Guard, Unsupported
from fxfeat.ir.module_call import ModuleCall
from fxfeat.ir.node_meta import Storage, meta_of
from fxfeat.ir.value_replacement import Replaced, Replacement

Kind = Literal["meta", "fake", "real"]


@dataclass(frozen=True)
class Recording:
    """Everything one run of a model left behind.

    ``kind`` says on what tensors it ran: without data or a device, without data, or real ones. ``tensors`` are those
    that nodes read and that are none of the model's, by name; ``persistent`` is the memory that outlives the run;
    ``opened`` are the paths of the leaves that were entered after all. ``dtype_reads`` are the nodes of which a dtype
    was read, and that dtype.

    What the run changed: ``writes_state`` says that it wrote to tensors or settings that the model keeps, or that no
    one can tell, ``writes_parameters`` that parameters are among them; ``changed_attributes`` are attributes and
    buffers of modules, by path and name, ``mutated`` the identities of containers, closures and arrays; ``unchanged``
    are the attributes that code set to what they were. What it was told: ``answers`` are all that was no tensor;
    ``reads_values`` are the types of numbers that came from data, ``asks_gradients`` that it asked whether gradients
    are on, ``attribute_reads`` are the attributes that it went by and left as they were. ``holds_iterators`` says that
    the model may keep state that nobody can see. ``replacements`` are the values that were to go through functions,
    ``replaced`` those that did. ``same_in_training`` says of a run in eval mode that one in train mode is the same, but
    for what is known ``in_training`` of its nodes; ``derived`` that it was made in that way and was no run of its own.
    ``state`` tells the memory of the parameters and buffers that were seen, by path; ``kept`` is that of state which
    code of the other mode uses.
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
    dtype_reads: tuple[Guard, ...] = ()
    unsupported: tuple[Unsupported, ...] = ()
    attribute_writes: tuple[AttributeWrite, ...] = ()
    unchanged: tuple[AttributeWrite, ...] = ()
    attribute_reads: tuple[AttributeRead, ...] = ()
    changed_attributes: tuple[tuple[str, str], ...] = ()
    mutated: frozenset[int] = frozenset()
    writes_state: bool = True
    reads_values: frozenset[type] = frozenset()
    asks_gradients: bool = False
    answers: tuple[Answer, ...] = ()
    holds_iterators: bool = False
    writes_parameters: bool = False
    replacements: tuple[Replacement, ...] = ()
    replaced: tuple[Replaced, ...] = ()
    same_in_training: bool = False
    derived: bool = False
    state: Mapping[str, Storage] = field(default_factory=dict)
    kept: frozenset[Storage] = frozenset()

    @property
    def is_stateless(self) -> bool:
        """Whether the run changed nothing that the model keeps, as another on inputs of these sizes will not."""
        return not (self.changed_attributes or self.mutated or self.writes_state)

    @property
    def changes_python(self) -> bool:
        """Whether the run changed what modules or other objects keep in Python."""
        return bool(self.changed_attributes or self.attribute_writes or self.mutated)

    def acts_on_gradients_after(self, position: int) -> bool:
        """Whether code behind a position does something to gradients of values before it, as by a hook."""
        return any(step.acts_on is not None and step.position >= position for step in self.unsupported)

    @functools.cached_property
    def nodes(self) -> list[fx.Node]:
        """The nodes by position."""
        return list(self.graph.nodes)

    @functools.cached_property
    def modules(self) -> dict[str, torch.nn.Module]:
        """The model's modules by each of their paths."""
        return dict(self.root.named_modules(remove_duplicate=False))


def lint(recording: Recording) -> None:
    """Raise unless the invariants of a recording hold.

    Raises:
        AssertionError: naming the node or the module call.
    """
    owners = [0] * len(recording.nodes)
    for index, call in enumerate(recording.module_calls):
        _lint_call(recording.module_calls, index)
        # A module call comes after those around it, so that the innermost has the last word.
        owners[call.start : call.stop] = [index] * (call.stop - call.start)
    for position, node in enumerate(recording.nodes):
        assert meta_of(node).position == position, f"{node} says that it is at {meta_of(node).position}, not {position}"
        owner = meta_of(node).module_call
        assert owner == owners[position], f"{node} is owned by module call {owner}, not {owners[position]}"


def _lint_call(calls: tuple[ModuleCall, ...], index: int) -> None:
    call = calls[index]
    assert call.index == index, f"module call {index} says that it is {call.index}"
    if index == 0:
        assert call.parent is None and call.path == "", "module call 0 is not the root's"
        return
    assert call.parent is not None and call.parent < index, f"module call {index} comes before its parent"
    around = calls[call.parent]
    assert around.start <= call.start <= call.stop <= around.stop, f"module call {index} leaves its parent"
