"""Names for nodes: the dotted path to the leaf module or operation, repeats numbered within the parent.

Invariants: names are unique; a module's own path is never given to something else; a number is given only to a repeat.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from fxfeat.ir.module_call import ModuleCall
from fxfeat.ir.node_meta import (
    holds_tensor,
    meta_of,
)
from fxfeat.ir.recording import Recording
from fxfeat.names.stems import stem


@dataclass(frozen=True)
class NameTable:
    """The names of one recording.

    ``calls`` holds the names of leaves that were entered: they mean the same as if they had not been.
    """

    nodes: dict[str, fx.Node]
    calls: dict[str, ModuleCall]
    module_calls: dict[str, tuple[ModuleCall, ...]]
    paths: frozenset[str]

    @property
    def listed(self) -> list[str]:
        """The names of nodes that produce tensors, in the order in which they ran."""
        return [name for name, node in self.nodes.items() if holds_tensor(meta_of(node).value)]


def name_nodes(recording: Recording) -> NameTable:
    """Name every node that depends on an input or a parameter.

    Source: torchvision's ``get_graph_node_names``, whose names these are wherever they are right.
    """
    paths = frozenset(recording.modules)
    called = {call.path for call in recording.module_calls}
    names: dict[str, fx.Node] = {}
    counts: dict[str, int] = {}
    calls: dict[str, ModuleCall] = {}
    taken: set[str] = set()
    entered = [call for call in recording.module_calls if call.entered]
    for node in recording.graph.nodes:
        while entered and entered[0].start <= meta_of(node).position:
            module_call = entered.pop(0)
            calls[_number(module_call.path, counts, True, paths, taken)] = module_call
        if meta_of(node).counted and not meta_of(node).constant:
            base = _base(recording, node)
            free = node.op == "call_module" or base not in called
            names[_number(base, counts, free, paths, taken)] = node
    return NameTable(names, calls, _calls_by_path(recording.module_calls), paths)


def _base(recording: Recording, node: fx.Node) -> str:
    if node.op == "call_module":
        return str(node.target)
    parent = recording.module_calls[meta_of(node).module_call].path if recording.module_calls else ""
    return f"{parent}.{stem(node)}" if parent else stem(node)


def _number(base: str, counts: dict[str, int], free: bool, paths: frozenset[str], taken: set[str]) -> str:
    count = counts.get(base, 1)
    name = base
    if not free or base in taken:
        while f"{base}_{count}" in paths or f"{base}_{count}" in taken:
            count += 1
        name = f"{base}_{count}"
        count += 1
    counts[base] = count
    taken.add(name)
    return name


def _calls_by_path(module_calls: tuple[ModuleCall, ...]) -> dict[str, tuple[ModuleCall, ...]]:
    calls_by_path: dict[str, list[ModuleCall]] = {}
    for module_call in module_calls:
        calls_by_path.setdefault(module_call.path, []).append(module_call)
    return {path: tuple(calls) for path, calls in calls_by_path.items()}
