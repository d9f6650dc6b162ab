"""The descent of a model: the maps on the way from the image down to its lowest resolution."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import networkx as nx
from torch import fx, nn

from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.recording import Recording
from fxfeat.pyramid.encoder_end import find_decoder, leave_heads
from fxfeat.pyramid.glances import leave_glances
from fxfeat.pyramid.maps import Maps
from fxfeat.pyramid.resolution import is_drop
from fxfeat.vision.data_flow import find_chain, results_of
from fxfeat.vision.layout import Layout
from fxfeat.vision.learnt import has_weights, mixes
from fxfeat.vision.operations import JOINS, function_of, kind_of
from fxfeat.vision.shapes import position_of


@dataclass(frozen=True)
class Descent:
    """Maps that everything flowing to the lowest resolution goes through.

    Attributes:
        chain: the maps in the order in which they ran, each at the resolution of the one before or a lower one.
        flow: all values on the way to the last of them.
        whole: whether the model's result comes from the last of them alone; not so in a U-shaped model.
        after: what comes next on the way to the result, if the model is no U.
    """

    chain: tuple[fx.Node, ...]
    flow: nx.DiGraph
    whole: bool
    after: fx.Node | None = None


def find_descent(recording: Recording, flow: nx.DiGraph, maps: Maps) -> Descent:
    """Find the maps from the image down to the lowest resolution.

    In most models they are values that every path from the image to the result goes through. In a U-shaped model, or
    one that returns several maps, paths leave the descent early; there, they are the values that every path to the
    lowest resolution goes through.

    Source: dominators of a flow graph, Lengauer and Tarjan 1979.
    """
    spine = find_chain(flow, [maps.image], results_of(recording))
    chain = _take_descent(_leave_image(recording, [node for node in spine if node in maps.layouts], maps), maps.layouts)
    bottom = chain[-1] if chain else maps.image
    if not _is_passed_by(recording, flow, maps, bottom):
        after = next((node for node in spine if position_of(node) > position_of(bottom)), None)
        return Descent(tuple(chain), _above(flow, bottom), True, after)
    bottom = _find_bottom(recording, leave_glances(recording, flow, maps.layouts), maps)
    chain = [node for node in find_chain(flow, [maps.image], [bottom]) if node in maps.layouts]
    chain = _leave_image(recording, chain, maps)
    return Descent(tuple(_take_descent(chain, maps.layouts)), _above(flow, bottom), False)


def _above(flow: nx.DiGraph, bottom: fx.Node) -> nx.DiGraph:
    return flow.subgraph({bottom, *nx.ancestors(flow, bottom)})


def _leave_image(recording: Recording, chain: list[fx.Node], maps: Maps) -> list[fx.Node]:
    """Begin with the image as the model enlarges it, if it does before it learns anything of it."""
    for index, node in enumerate(chain[1:], 1):
        if has_weights(recording, node):
            return chain
        if is_drop(maps.layouts[node], maps.layouts[chain[index - 1]]):
            return chain[index:]
    return chain


def _take_descent(chain: list[fx.Node], layouts: dict[fx.Node, Layout]) -> list[fx.Node]:
    """Take maps for as long as none has a higher resolution than one before it."""
    taken: list[fx.Node] = []
    for node in chain:
        if taken and is_drop(layouts[node], layouts[taken[-1]]):
            break
        taken.append(node)
    return taken


def _is_passed_by(recording: Recording, flow: nx.DiGraph, maps: Maps, bottom: fx.Node) -> bool:
    """Say whether the model goes lower in resolution than all that every path goes through.

    A block may look at a smaller copy of its map and come back. A U goes down twice or more, or from the image itself,
    or has several blocks or a stage of the model at its bottom, or puts its values back where they were the largest;
    and a map that is returned counts in any case.
    """
    layouts, results = maps.layouts, set(results_of(recording))
    deeper = [node for node in flow if node in layouts and is_drop(layouts[bottom], layouts[node])]
    if not deeper:
        return False
    if not is_drop(layouts[maps.image], layouts[bottom]) or not results.isdisjoint(deeper):
        return True
    below = flow.subgraph(deeper)
    twice = any(is_drop(layouts[left], layouts[right]) for left, right in below.edges)
    unpools = any("maxunpool" in kind_of(recording, user) for node in deeper for user in flow.successors(node))
    return twice or unpools or _has_blocks(recording, below) or _is_stage(recording, flow, layouts, deeper)


def _is_stage(recording: Recording, flow: nx.DiGraph, layouts: dict[fx.Node, Layout], deeper: list[fx.Node]) -> bool:
    """Say whether what goes down never comes back, or code goes down and up that also made the resolutions before."""
    if not any(mixes(recording, node) for node in deeper):
        return False
    after = {later for node in deeper for later in nx.descendants(flow, node)} - set(deeper)
    if not any(node in layouts for node in after):
        return True
    first, last = min(map(position_of, deeper)), max(position_of(n) for node in deeper for n in flow.successors(node))
    holding = [call for call in recording.module_calls if call.start <= first and last < call.stop]
    before = [node for node in flow if node in layouts and holding[-1].start <= position_of(node) < first]
    return any(is_drop(layouts[one], layouts[node]) for one, node in flow.subgraph(before).edges)


def _has_blocks(recording: Recording, flow: nx.DiGraph) -> bool:
    """Say whether two calls of one class follow each other, without coming up in between."""
    results: dict[type, list[fx.Node]] = {}
    for module_call in recording.module_calls:
        if not module_call.leaf and module_call.result in flow:
            results.setdefault(type(recording.root.get_submodule(module_call.path)), []).append(module_call.result)
    pairs = (pair for nodes in results.values() for pair in itertools.pairwise(dict.fromkeys(nodes)))
    return any(nx.has_path(flow, left, right) for left, right in pairs)


def _find_bottom(recording: Recording, flow: nx.DiGraph, maps: Maps) -> fx.Node:
    """Find the last map of the lowest resolution that ran before the decoder, and before heads."""
    layouts = maps.layouts
    ran = sorted((node for node in flow if node in layouts), key=position_of)
    stop = find_decoder(recording, flow, maps, ran)
    ran = [node for node in ran if position_of(node) < stop]
    lowest = max((layouts[node] for node in ran), key=lambda layout: layout.size)
    bottoms = {node for node in ran if not is_drop(layouts[node], lowest)}
    ascent = (node for node in ran if node not in bottoms and not bottoms.isdisjoint(flow.predecessors(node)))
    first = next(ascent, None)
    before = ran if first is None else _list_before(recording, ran, first, bottoms)
    low = [node for node in before if node in bottoms]
    return _leave_skip(flow, leave_heads(recording, flow, layouts, low), bottoms)


def _list_before(recording: Recording, ran: list[fx.Node], first: fx.Node, bottoms: set[fx.Node]) -> list[fx.Node]:
    """List the maps before the outermost call that leads up and not down: a decoder's block, with work of its own."""
    start, at = position_of(next(node for node in ran if node in bottoms)), position_of(first)
    holding = (call.start for call in recording.module_calls[1:] if start < call.start <= at < call.stop)
    stop = min(next(holding, at), _find_list_of_steps(recording, first, start))
    return [node for node in ran if position_of(node) < stop]


def _find_list_of_steps(recording: Recording, first: fx.Node, start: int) -> int:
    """Find where a list of modules begins, one of which leads up, if all of them run at the bottom or on the way up."""
    path = recording.module_calls[meta_of(first).module_call].path
    while path:
        path = path.rpartition(".")[0]
        if isinstance(recording.root.get_submodule(path), nn.ModuleList):
            starts = [call.start for call in recording.module_calls if call.path.startswith(f"{path}.")]
            if min(starts) > start:
                return min(starts)
    return len(recording.nodes)


def _leave_skip(flow: nx.DiGraph, bottom: fx.Node, bottoms: set[fx.Node]) -> fx.Node:
    """Step back from where a way round the bottom of a U is joined to it again, which is where the way up begins."""
    joined = sorted(set(flow.predecessors(bottom)) & bottoms, key=position_of)
    joins = function_of(bottom) in JOINS and len(joined) == 2
    return joined[1] if joins and nx.has_path(flow, joined[0], joined[1]) else bottom
