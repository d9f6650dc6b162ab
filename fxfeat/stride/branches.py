"""Tell the trunk of a model from its side branches."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import networkx as nx
from torch import fx

from fxfeat.ir.recording import Recording
from fxfeat.stride.read_windows import read_window
from fxfeat.vision.data_flow import draw_data_flow, find_dominators, inputs_of, keep_between, results_of


class Treatment(enum.Enum):
    """What becomes of a smoothing filter (an average pool, a blur) that loses its stride.

    On the trunk it is dilated like any window, and the dense map holds the strided one. On a branch beside another
    strided one, timm leaves it undilated; and behind a convolution of that branch, whose aliasing it is there to
    prevent, an average pool goes with the stride.
    """

    DILATED = "dilated"
    PLAIN = "not dilated"
    DROPPED = "dropped"


Dominators = dict[fx.Node, fx.Node | None]


@dataclass(frozen=True)
class Branches:
    """Where the data flow of a recording forks and joins.

    Attributes:
        recording: the recording.
        strided: the calls that lose a stride.
        flow: the values between the inputs and the results.
        before: the last value that every way to each goes through.
        behind: the first value that every way on from each goes through.
    """

    recording: Recording
    strided: frozenset[fx.Node]
    flow: nx.DiGraph
    before: Dominators
    behind: Dominators


def find_branches(recording: Recording, strided: Iterable[fx.Node]) -> Branches:
    """Find where the data flow of a recording forks and joins."""
    inputs, results = inputs_of(recording), results_of(recording)
    flow = keep_between(draw_data_flow(recording), inputs, results)
    behind = find_dominators(flow.reverse(copy=False), results)
    return Branches(recording, frozenset(strided), flow, find_dominators(flow, inputs), behind)


def treat_filter(branches: Branches, node: fx.Node) -> Treatment:
    """Say how to treat a smoothing filter."""
    if node not in branches.flow:
        return Treatment.DILATED
    fork, between = _find_innermost_fork(branches, node)
    if fork is None or not _has_strided_sibling(branches, fork, node):
        return Treatment.DILATED
    learned = any(_is_learned_convolution(branches.recording, value) for value in between)
    return Treatment.DROPPED if learned else Treatment.PLAIN


def _find_innermost_fork(branches: Branches, node: fx.Node) -> tuple[fx.Node | None, list[fx.Node]]:
    """Find the last value on every way to a node from which a way leads around it, and what lies between."""
    between: list[fx.Node] = []
    for value in _walk(branches.before, node):
        if node not in _walk(branches.behind, value):
            return value, between
        between.append(value)
    return None, between


def _walk(dominators: Dominators, node: fx.Node) -> Iterator[fx.Node]:
    value = dominators[node]
    while value is not None:
        yield value
        value = dominators[value]


def _has_strided_sibling(branches: Branches, fork: fx.Node, node: fx.Node) -> bool:
    """Say whether a way around the node, from the fork to where the ways meet, loses a stride too."""
    around = nx.descendants(branches.flow, fork) - nx.descendants(branches.flow, node) - {node}
    return not branches.strided.isdisjoint(around)


def _is_learned_convolution(recording: Recording, node: fx.Node) -> bool:
    window = read_window(recording, node)
    return window is not None and window.kind == "conv" and window.learned
