"""Tell the trunk of a model from its side branches."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import networkx as nx
from torch import fx

from fxfeat.ir.node_meta import holds_tensor, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import nodes_in
from fxfeat.stride.windows import read_window

_ENTRY, _EXIT = "entry", "exit"


class Treatment(enum.Enum):
    """What becomes of a smoothing filter (an average pool, a blur) that loses its stride.

    On the trunk it is dilated like any window, and the dense map holds the strided one. On a branch beside another
    strided one, timm leaves it undilated; and behind a convolution of that branch, whose aliasing it is there to
    prevent, an average pool goes with the stride.
    """

    DILATED = "dilated"
    PLAIN = "not dilated"
    DROPPED = "dropped"


class Branches:
    """Where the data flow of a recording forks and joins."""

    def __init__(self, recording: Recording, strided: Iterable[fx.Node]) -> None:
        self.recording, self.strided = recording, set(strided)
        self.flow = _draw(recording)
        self.above = nx.immediate_dominators(self.flow, _ENTRY)
        self.below = nx.immediate_dominators(self.flow.reverse(copy=False), _EXIT)

    def treat(self, node: fx.Node) -> Treatment:
        """Say how to treat a smoothing filter."""
        if node not in self.above or node not in self.below:
            return Treatment.DILATED
        fork, between = self._innermost_fork(node)
        if fork is None or not self._has_strided_sibling(fork, node):
            return Treatment.DILATED
        learned = any(self._is_learned_convolution(held) for held in between)
        return Treatment.DROPPED if learned else Treatment.PLAIN

    def _innermost_fork(self, node: fx.Node) -> tuple[object | None, list[fx.Node]]:
        """Find the last value on every way to a node from which a way leads around it, and what lies between."""
        between: list[fx.Node] = []
        held = self.above.get(node)
        while held is not None and held != _ENTRY:
            if not self._must_pass(held, node):
                return held, between
            between.append(held)
            held = self.above.get(held)
        return None, between

    def _must_pass(self, start: object, node: fx.Node) -> bool:
        held = start
        while held is not None and held != _EXIT:
            if held is node:
                return True
            after = self.below.get(held)
            held = None if after is held else after
        return False

    def _has_strided_sibling(self, fork: object, node: fx.Node) -> bool:
        """Say whether a way around the node, from the fork to where the ways meet, loses a stride too."""
        behind = nx.descendants(self.flow, node)
        around = nx.descendants(self.flow, fork) - behind - {node}
        return bool(self.strided & around)

    def _is_learned_convolution(self, node: fx.Node) -> bool:
        window = read_window(self.recording, node)
        return window is not None and window.kind == "conv" and window.learned


def _draw(recording: Recording) -> nx.DiGraph:
    """Draw an edge from each tensor to those computed from it; sizes read on the way are no data flow."""
    drawn = nx.DiGraph()
    drawn.add_nodes_from((_ENTRY, _EXIT))
    held = [node for node in recording.graph.nodes if _carries(node)]
    for node in held:
        if node.op == "placeholder":
            drawn.add_edge(_ENTRY, node)
        drawn.add_edges_from((source, node) for source in node.all_input_nodes if _carries(source))
    drawn.add_edges_from((node, _EXIT) for node in nodes_in(recording.result) if node in drawn)
    drawn.add_edges_from((node, _EXIT) for _, node in recording.module_calls[0].result_nodes if node in drawn)
    useful = nx.descendants(drawn, _ENTRY) & nx.ancestors(drawn, _EXIT)
    return drawn.subgraph({*useful, _ENTRY, _EXIT}).copy()


def _carries(node: fx.Node) -> bool:
    return holds_tensor(meta_of(node).value)
