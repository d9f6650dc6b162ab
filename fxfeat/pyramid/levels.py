"""The levels of a hierarchical model: the map at the end of each resolution."""

from __future__ import annotations

import itertools
import operator
from dataclasses import dataclass

import networkx as nx
from torch import fx

from fxfeat.name.table import name_nodes
from fxfeat.pyramid.descent import Descent
from fxfeat.pyramid.drops import Drop
from fxfeat.pyramid.layout import Layout
from fxfeat.pyramid.maps import Maps
from fxfeat.pyramid.mixing import has_weights, mixes
from fxfeat.pyramid.naming import name_value
from fxfeat.record.recording import Recording, Span, facts


@dataclass(frozen=True)
class Level:
    """One map of a feature pyramid.

    Attributes:
        index: its place among the levels, from 0.
        module: the name to ask for it by, of a module or an operation.
        reduction: how many pixels of the image one step on its grid is.
        layout: how it holds the map, at the example's size.
        node: the value in the recording.
        why: the rule that chose it, in words.
    """

    index: int
    module: str
    reduction: int
    layout: Layout
    node: fx.Node
    why: str


def find_levels(recording: Recording, maps: Maps, descent: Descent, drops: list[Drop]) -> tuple[Level, ...]:
    """Find the levels of a model that lowers the resolution step by step.

    A level ends where the resolution drops: it is what was given to the outermost module call that holds exactly that
    one drop. The last level is what the container of the last drop's module made at that resolution.

    Args:
        recording: of the model in eval mode.
        maps: of that recording.
        descent: the maps on the way down.
        drops: its drops, from ``find_drops``.

    Returns:
        The levels, of rising reduction; none where the resolution never drops.
    """
    if not drops:
        return ()
    ends = [(drop.source, _explain(drop)) for drop in drops] + [_last_end(recording, descent, maps.layouts, drops[-1])]
    return _number(recording, maps, descent.flow, ends, drops)


def _explain(drop: Drop) -> str:
    if drop.span is None:
        names = ", ".join(dict.fromkeys(str(node) for node in drop.nodes[:2]))
        return f"the last map before {names} lowers the resolution, which no module does by itself"
    if drop.passed:
        return f"goes into {drop.span.path}, the last module to lower this of several resolutions side by side"
    if drop.stage is not None and drop.stage is not drop.span:
        return f"goes into {drop.span.path}, by which {drop.stage.path} lowers the resolution after its own work"
    return f"goes into {drop.span.path}, the outermost module that holds this one drop in resolution"


def _last_end(
    recording: Recording, descent: Descent, layouts: dict[fx.Node, Layout], drop: Drop
) -> tuple[fx.Node, str]:
    """Take the last map of the lowest resolution inside the container of the last stage, before the head."""
    container = _container_of(recording, drop)
    head = _find_head(recording, descent, drop)
    stop = min(container.stop, _find_stage_end(recording, drop), container.stop if head is None else head.start)
    last = facts(drop.nodes[-1]).position
    held = [node for node in descent.chain if last <= facts(node).position < stop] or [descent.chain[-1]]
    tail = _find_tail(recording, layouts, drop, container, held)
    if tail is not None:
        before = [node for node in held if facts(node).position < tail.start]
        return before[-1], f"the last map of the lowest resolution before {tail.path}, which only adds channels"
    where = f"inside {container.path}" if container.path else "before the head"
    return held[-1], f"the last map of the lowest resolution {where}"


def _find_stage_end(recording: Recording, drop: Drop) -> int:
    """Find where a list of stages ends that is called one by one, if the last drop's module is a stage and in one."""
    owner = drop.stage.path.rpartition(".")[0] if drop.stage is not None else ""
    spans = recording.spans
    if drop.stage is None or not owner or any(span.path == owner for span in spans):
        return len(recording.nodes)
    last = facts(drop.nodes[-1]).position
    if not any(mixes(recording, node) for node in recording.nodes[last + 1 : drop.stage.stop]):
        return len(recording.nodes)
    return max(span.stop for span in spans if span.parent == drop.stage.parent and span.path.startswith(f"{owner}."))


def _find_tail(
    recording: Recording, layouts: dict[fx.Node, Layout], drop: Drop, container: Span, held: list[fx.Node]
) -> Span | None:
    """Find where, at the end of the container, channels are added for the head: 1x1 convolutions, norms, activations.

    They are told from a stage by their classes, which are others than that of the module that holds the last drop.
    """
    last, tail = facts(held[-1]).position, None
    children = [span for span in recording.spans if span.parent == container.index and span.start <= last]
    for child in reversed(children):
        if drop.span is None or child.start <= facts(held[0]).position:
            break
        nodes = recording.nodes[child.start : child.stop]
        if _class_of(recording, child) is _class_of(recording, drop.span) or any(mixes(recording, n) for n in nodes):
            break
        tail = child
    if tail is None:
        return None
    before = [node for node in held if facts(node).position < tail.start]
    return tail if layouts[held[-1]].channels > layouts[before[-1]].channels else None


def _class_of(recording: Recording, span: Span) -> type:
    return type(recording.root.get_submodule(span.path))


def _container_of(recording: Recording, drop: Drop) -> Span:
    if drop.stage is not None and drop.stage.parent is not None:
        return recording.spans[drop.stage.parent]
    return recording.spans[facts(drop.nodes[-1]).span]


def _find_head(recording: Recording, descent: Descent, drop: Drop) -> Span | None:
    """Find the outermost module call after the last drop that does away with the map."""
    if descent.after is None:
        return None
    first, last = facts(descent.chain[-1]).position + 1, facts(descent.after).position
    after_drop = facts(drop.nodes[-1]).position
    holding = (span for span in recording.spans if after_drop < span.start <= first and last < span.stop)
    return next(holding, None)


def _is_learnt(recording: Recording, flow: nx.DiGraph, node: fx.Node) -> bool:
    """Say whether a map is more than the image, normalised or cut up."""
    return any(has_weights(recording, held) for held in (node, *nx.ancestors(flow, node)))


def _number(
    recording: Recording, maps: Maps, flow: nx.DiGraph, ends: list[tuple[fx.Node, str]], drops: list[Drop]
) -> tuple[Level, ...]:
    def is_one_stage(span: Span) -> bool:
        return sum(span.start <= facts(drop.nodes[-1]).position < span.stop for drop in drops) < 2

    table = name_nodes(recording)
    levels: list[Level] = []
    reductions = itertools.accumulate((drop.factor for drop in drops), operator.mul, initial=1)
    for (node, why), reduction in zip(ends, reductions, strict=True):
        name = name_value(recording, node, table, is_one_stage)
        if name is None or not _is_learnt(recording, flow, node):
            continue
        levels.append(Level(len(levels), name, reduction, maps.layouts[node], node, why))
    return tuple(levels)
