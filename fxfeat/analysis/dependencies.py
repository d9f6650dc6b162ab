"""What a node depends on: the nodes it reads, and the nodes that last wrote the memory it reads."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx, nn

from fxfeat.analysis.effects import keeps_statistics
from fxfeat.ir.draft import last_produced_at
from fxfeat.ir.feature import Feature
from fxfeat.ir.module_call import ModuleCall
from fxfeat.ir.node_meta import (
    Storage,
    meta_of,
)
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import nodes_in

Dependencies = dict[fx.Node, list[fx.Node]]
"""What each node depends on; all of it comes before the node."""


def map_dependencies(nodes: Iterable[fx.Node]) -> Dependencies:
    """Map each node, in order, to the nodes it reads and those that last wrote memory of these."""
    dependencies: Dependencies = {}
    writers: dict[Storage, fx.Node] = {}
    for node in nodes:
        written = (writers[memory] for memory in memory_of(node) if memory in writers)
        dependencies[node] = list(dict.fromkeys((*node.all_input_nodes, *written)))
        writers.update(dict.fromkeys(meta_of(node).writes, node))
    return dependencies


def memory_of(node: fx.Node) -> set[Storage]:
    """Return the memory that a node may read or write."""
    meta = meta_of(node)
    return {
        *meta.reads,
        *meta.writes,
        *(memory for source in node.all_input_nodes for memory in meta_of(source).aliases),
    }


def writers_before(writers: Iterable[fx.Node], memory: frozenset[Storage], produced_at: int) -> list[fx.Node]:
    """List those of some nodes that wrote some memory before a position."""
    return [node for node in writers if meta_of(node).position < produced_at and meta_of(node).writes & memory]


def writers_into(module_calls: Iterable[ModuleCall], nodes: list[fx.Node]) -> set[fx.Node]:
    """Find what last wrote, before each of some calls, the memory that it may read."""
    writers = [node for node in nodes if meta_of(node).writes]
    last: set[fx.Node] = set()
    for module_call in module_calls if writers else ():
        memory = {storage for node in nodes[module_call.start : module_call.stop] for storage in memory_of(node)}
        for node in reversed(writers_before(writers, frozenset(memory), module_call.start)):
            if memory & meta_of(node).writes:
                last.add(node)
                memory -= meta_of(node).writes
    return last


def find_needed(
    recording: Recording, dependencies: Dependencies, features: tuple[Feature, ...], also: Iterable[fx.Node] = ()
) -> set[fx.Node]:
    """Find the nodes that features need, in this call of the model and in the next.

    An update of state that eager code makes before the last feature stays unless it alone needs parameters: a branch
    with parameters of its own that feeds no feature is a head, and goes with its state. An update after the last
    feature goes, unless the next call's features read what it wrote. What the other mode uses is kept up in any case.
    """
    nodes, roots = list(dependencies), set(also)
    writers = [node for node in nodes if meta_of(node).writes]
    for feature in features:
        for node in nodes_in(feature.value):
            roots.add(node)
            roots.update(writers_before(writers, meta_of(node).aliases, feature.produced_at))
    needed = _with_ancestors(dependencies, roots)
    updates = [node for node in writers if meta_of(node).writes & recording.persistent]
    needed |= _with_ancestors(dependencies, {node for node in updates if meta_of(node).writes & recording.kept})
    for node in updates:
        extra = _with_ancestors(dependencies, {node}) - needed
        is_late = meta_of(node).position >= last_produced_at(features)
        if not is_late and not any(_has_parameters(recording, ancestor) for ancestor in extra):
            needed |= extra
    # The next call brings inputs of its own.
    state = recording.persistent.difference(*(meta_of(node).aliases for node in nodes if node.op == "placeholder"))
    while late := _read_next(recording, [node for node in updates if node not in needed], state, needed):
        needed |= _with_ancestors(dependencies, late)
    return needed


def _read_next(
    recording: Recording, updates: list[fx.Node], state: frozenset[Storage], needed: set[fx.Node]
) -> set[fx.Node]:
    """Find the updates of state that needed nodes compute from in the next call."""
    # Few nodes touch state at all: the others are not looked at again for each update.
    touching = {node: memory for node in needed if (memory := memory_of(node) & state)} if updates else {}

    def is_read(update: fx.Node) -> bool:
        meta = meta_of(update)
        memory = state & (meta.writes if update.target is setattr else meta.writes - meta.may_write)
        readers = [node for node, touched in touching.items() if memory & touched]
        return any(not _only_updates(recording, node, memory) for node in readers)

    return {node for node in updates if is_read(node)}


def _only_updates(recording: Recording, node: fx.Node, memory: frozenset[Storage]) -> bool:
    """Say whether a node writes the state that it reads and returns nothing that was computed from it."""
    meta = meta_of(node)
    if not memory & memory_of(node) <= meta.writes:
        return False
    if node.op == "call_module":
        return isinstance(recording.root.get_submodule(str(node.target)), nn.modules.batchnorm._NormBase)
    return node.target is setattr or keeps_statistics(node.target) or bool(meta.aliases & memory)


def _with_ancestors(dependencies: Dependencies, roots: set[fx.Node]) -> set[fx.Node]:
    reached = set(roots)
    waiting = list(roots)
    while waiting:
        for source in dependencies.get(waiting.pop(), ()):
            if source not in reached:
                reached.add(source)
                waiting.append(source)
    return reached


def _has_parameters(recording: Recording, node: fx.Node) -> bool:
    if node.op == "call_module":
        return next(recording.root.get_submodule(str(node.target)).parameters(), None) is not None
    if node.op != "get_attr" or str(node.target) in recording.tensors:
        return False
    value = _attribute(recording.root, str(node.target))
    return isinstance(value, nn.Parameter)


def _attribute(root: nn.Module, path: str) -> torch.Tensor | nn.Module | None:
    owner, _, name = path.rpartition(".")
    return getattr(root.get_submodule(owner), name, None)
