"""Names for nodes: the dotted path to the leaf module or operation, repeats numbered within the parent.

Invariants: names are unique; a module's own path is never given to something else; a number is given only to a repeat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from fxfeat.name.stems import stem
from fxfeat.record.recording import Recording, Span, TensorFacts, facts


@dataclass(frozen=True)
class NameTable:
    """The names of one recording.

    ``calls`` holds the names of leaves that were entered: they mean the same as if they had not been.
    """

    nodes: dict[str, fx.Node]
    calls: dict[str, Span]
    spans: dict[str, tuple[Span, ...]]
    paths: frozenset[str]

    @property
    def listed(self) -> list[str]:
        """The names of nodes that produce tensors, in the order in which they ran."""
        return [name for name, node in self.nodes.items() if holds_tensor(facts(node).value)]


def holds_tensor(value: Any) -> bool:
    """Say whether measured facts describe at least one tensor."""
    if isinstance(value, TensorFacts):
        return True
    if isinstance(value, dict):
        return any(holds_tensor(held) for held in value.values())
    return isinstance(value, (tuple, list)) and any(holds_tensor(held) for held in value)


def name_nodes(recording: Recording) -> NameTable:
    """Name every node that depends on an input or a parameter.

    Source: torchvision's ``get_graph_node_names``, whose names these are wherever they are right.
    """
    paths = frozenset(path for path, _ in recording.root.named_modules(remove_duplicate=False))
    called = {span.path for span in recording.spans}
    names: dict[str, fx.Node] = {}
    counts: dict[str, int] = {}
    calls: dict[str, Span] = {}
    taken: set[str] = set()
    entered = [span for span in recording.spans if span.entered]
    for node in recording.graph.nodes:
        while entered and entered[0].start <= facts(node).position:
            span = entered.pop(0)
            calls[_number(span.path, counts, True, paths, taken)] = span
        if facts(node).counted and not facts(node).constant:
            base = _base(recording, node)
            free = node.op == "call_module" or base not in called
            names[_number(base, counts, free, paths, taken)] = node
    return NameTable(names, calls, _spans_by_path(recording.spans), paths)


def _base(recording: Recording, node: fx.Node) -> str:
    if node.op == "call_module":
        return str(node.target)
    parent = recording.spans[facts(node).span].path if recording.spans else ""
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


def _spans_by_path(spans: tuple[Span, ...]) -> dict[str, tuple[Span, ...]]:
    found: dict[str, list[Span]] = {}
    for span in spans:
        found.setdefault(span.path, []).append(span)
    return {path: tuple(calls) for path, calls in found.items()}
