"""Where a descent drops in resolution, and which module's call holds each drop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import networkx as nx
from torch import fx

from fxfeat.pyramid.descent import Descent, is_drop
from fxfeat.pyramid.layout import Layout
from fxfeat.pyramid.mixing import mixes
from fxfeat.record.recording import Recording, Span, facts


@dataclass(frozen=True)
class Drop:
    """One step down in resolution.

    Attributes:
        source: the last map before it that everything goes through.
        nodes: the operations that lower the resolution: several where a shortcut does so too.
        span: the outermost call of a module that holds this drop and no other; None where only the whole model does.
    """

    source: fx.Node
    nodes: tuple[fx.Node, ...]
    span: Span | None


def find_drops(recording: Recording, descent: Descent, layouts: dict[fx.Node, Layout]) -> list[Drop]:
    """Find the drops of a descent, in order."""
    lowering = find_lowering(descent.flow, layouts)
    steps = list(zip(descent.chain, descent.chain[1:], strict=False))
    found = [
        (before, [node for node in lowering if _position(before) < _position(node) <= _position(after)])
        for before, after in steps
        if is_drop(layouts[before], layouts[after])
    ]
    return [
        Drop(
            before, tuple(nodes), _find_span(recording, descent, nodes, [other for _, other in found if other != nodes])
        )
        for before, nodes in found
    ]


def find_lowering(flow: nx.DiGraph, layouts: dict[fx.Node, Layout]) -> list[fx.Node]:
    """List the operations whose result is a map of a lower resolution than one they were computed from."""
    # A map may be cut up and put together again: the maps that a value without a layout comes from are handed on.
    sources: dict[fx.Node, frozenset[fx.Node]] = {}
    lowering = []
    for node in sorted(flow, key=_position):
        above = frozenset().union(*(sources[source] for source in flow.predecessors(node) if source in sources))
        sources[node] = frozenset({node}) if node in layouts else above
        if node in layouts and any(is_drop(layouts[source], layouts[node]) for source in above):
            lowering.append(node)
    return lowering


def _find_span(
    recording: Recording, descent: Descent, nodes: list[fx.Node], others: list[list[fx.Node]]
) -> Span | None:
    other = [node for held in others for node in held]
    holding = [span for span in recording.spans[1:] if _holds(span, nodes, all) and not _holds(span, other, any)]
    return next((span for span in holding if not _works_first(recording, descent, span, nodes)), None)


def _holds(span: Span, nodes: Iterable[fx.Node], quantifier: object) -> bool:
    return bool(quantifier(span.start <= _position(node) < span.stop for node in nodes))  # type: ignore[operator]


def _works_first(recording: Recording, descent: Descent, span: Span, nodes: list[fx.Node]) -> bool:
    """Say whether a module's call works at the higher resolution before it lowers it.

    Then what it was given is not yet the feature of that resolution: a stage of blocks with the reduction at its end,
    or a convolution, an activation and a pool in one container.
    """
    first, last = _position(nodes[0]), _position(nodes[-1])
    before = [node for node in descent.chain if span.start <= _position(node) < first]
    inner = [held for held in recording.spans if span.start <= held.start and held.stop <= first and not held.leaf]
    blocks = [held for held in inner if any(held.result is node for node in before)]
    if any(mixes(recording, node) for held in blocks for node in recording.nodes[held.start : held.stop]):
        return True
    after = recording.nodes[last + 1 : span.stop]
    ends = not any(node.op == "call_module" and _has_weights(recording, node) for node in after)
    return ends and any(mixes(recording, node) for node in before)


def _has_weights(recording: Recording, node: fx.Node) -> bool:
    module = recording.root.get_submodule(str(node.target))
    return any(parameter.dim() > 1 for parameter in module.parameters())


def _position(node: fx.Node) -> int:
    return int(facts(node).position)
