"""The levels of a hierarchical model: the map at the end of each resolution."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import networkx as nx
from torch import fx, nn

from fxfeat.ir.module_call import ModuleCall
from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.recording import Recording
from fxfeat.names.table import name_nodes
from fxfeat.pyramid.descent import Descent
from fxfeat.pyramid.drops import Drop
from fxfeat.pyramid.maps import Maps
from fxfeat.pyramid.side_by_side import take_last_branches
from fxfeat.vision.data_flow import results_of
from fxfeat.vision.layout import Layout
from fxfeat.vision.learnt import has_weights, mixes
from fxfeat.vision.operations import CONVOLUTION_LAYERS, JOINS, function_of, is_layout, is_squash, kind_of, module_of
from fxfeat.vision.reduction import Reduction, join_axes
from fxfeat.vision.shapes import position_of, shape_of
from fxfeat.vision.value_names import name_value

_NORMS = frozenset(("layer_norm", "rms_norm"))

_MOST_OFF = 0.02
"""How far a step may be from a whole number, as a part of it, to be read off a map."""

_MANY = 8
"""From how many places on along an axis one more or less at the border does not speak for another reduction."""


@dataclass(frozen=True)
class Level:
    """One map of a feature pyramid.

    Attributes:
        index: its place among the levels, from 0.
        module: the name to ask for it by, of a module or an operation.
        reduction: how many pixels of the image one step on its grid is; one number, or one for each axis.
        layout: how it holds the map, at the example's size.
        node: the value in the recording.
        why: the rule that chose it, in words.
    """

    index: int
    module: str
    reduction: Reduction
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
    return _name_levels(recording, maps, descent, take_last_branches(recording, maps.layouts, ends), drops)


def _explain(drop: Drop) -> str:
    if drop.module_call is not None and max(drop.factor) == 1:
        return f"goes into {drop.module_call.path}, a stage that is dilated in place of a stride"
    if drop.module_call is None:
        names = ", ".join(dict.fromkeys(str(node) for node in drop.nodes[:2]))
        return f"the last map before {names} lowers the resolution, which no module does by itself"
    if drop.passed:
        return f"goes into {drop.module_call.path}, the last module to lower this of several resolutions side by side"
    if drop.stage is not None and drop.stage is not drop.module_call:
        return f"goes into {drop.module_call.path}, by which {drop.stage.path} lowers the resolution after its own work"
    return f"goes into {drop.module_call.path}, the outermost module that holds this one drop in resolution"


def _last_end(
    recording: Recording, descent: Descent, layouts: dict[fx.Node, Layout], drop: Drop
) -> tuple[fx.Node, str]:
    """Take the last map of the lowest resolution inside the container of the last stage, before the head."""
    container = _container_of(recording, drop)
    head = _find_head(recording, descent, drop)
    stop = min(container.stop, _find_stage_end(recording, drop), container.stop if head is None else head.start)
    last = position_of(drop.nodes[-1])
    lowest = [node for node in descent.chain if last <= position_of(node) < stop] or [descent.chain[-1]]
    lowest = _leave_pooled(recording, layouts, _add_sums(descent, lowest))
    scored = _leave_scores(recording, layouts, lowest)
    if len(scored) < len(lowest):
        why = f"the last map of the lowest resolution before {lowest[len(scored)]}, which makes scores of it"
        return scored[-1], why
    if not _ends_in_norm(recording, container, descent.chain, drop):
        lowest = _leave_norm(recording, container, drop, lowest)
    tail = _find_tail(recording, layouts, drop, container, lowest)
    if tail is not None:
        why = f"the last map of the lowest resolution before {tail.path}, which only adds channels"
        return _last_before(lowest, tail), why
    if len(lowest) > 1 and _makes_scores(recording, lowest[-1]):
        why = f"the last map of the lowest resolution before {lowest[-1]}, which makes scores of it"
        return _leave_join(recording, container, lowest[:-1]), why
    scores = _find_scores(recording, drop, container, lowest)
    if scores is not None:
        before = [node for node in lowest if position_of(node) < scores.start]
        why = f"the last map of the lowest resolution before {scores.path}, which makes scores of it"
        return _leave_join(recording, container, before), why
    where = f"inside {container.path}" if container.path else "before the head"
    return lowest[-1], f"the last map of the lowest resolution {where}"


def _add_sums(descent: Descent, lowest: list[fx.Node]) -> list[fx.Node]:
    """Take in what is added to the last map that is not made of it: that of another image, of its depth."""
    behind = descent.chain[descent.chain.index(lowest[-1]) + 1 :]
    from_last = {lowest[-1], *nx.descendants(descent.flow, lowest[-1])} if lowest[-1] in descent.flow else set()

    def adds(node: fx.Node) -> bool:
        return function_of(node) in ("add", "iadd") and len(from_last.intersection(node.all_input_nodes)) == 1

    return [*lowest, *itertools.takewhile(adds, behind)]


def _leave_pooled(recording: Recording, layouts: dict[fx.Node, Layout], lowest: list[fx.Node]) -> list[fx.Node]:
    """Leave out the average of all places, which is one, behind maps of several."""
    pooled = ["pool" in kind_of(recording, node) and set(layouts[node].grid) == {1} for node in lowest]
    return lowest[: len(lowest) - sum(1 for _ in itertools.takewhile(bool, reversed(pooled)))] or lowest


def _leave_scores(recording: Recording, layouts: dict[fx.Node, Layout], lowest: list[fx.Node]) -> list[fx.Node]:
    """Leave out what a model returns where that has less than half of the channels, by a layer alone or squashed."""
    if set(lowest[-1:]) != set(results_of(recording)):
        return lowest
    end = len(lowest)
    while end > 1 and is_squash(recording, lowest[end - 1]):
        end -= 1
    layer = module_of(recording, lowest[end - 1])
    if end < 2 or not isinstance(layer, (*CONVOLUTION_LAYERS, nn.Linear)):
        return lowest
    before, after = (layouts[node].channels for node in lowest[end - 2 : end])
    return lowest[: end - 1] if 2 * after < before else lowest


def _leave_norm(recording: Recording, container: ModuleCall, drop: Drop, lowest: list[fx.Node]) -> list[fx.Node]:
    """Leave out the norm of each place that a model calls after its stages, and what brings its channels to it."""
    index = _find_norm(recording, container, lowest)
    if index is None or _is_inside_listed(drop.stage, lowest[index]):
        return lowest
    start, stop = position_of(drop.nodes[-1]) + 1, position_of(lowest[index])
    worked = any(has_weights(recording, node) for node in recording.nodes[start:stop])
    return _leave_turns(recording, container, lowest[:index]) if worked else lowest


def _is_inside_listed(stage: ModuleCall | None, node: fx.Node) -> bool:
    """Say whether one of several stages in a list makes a map: it is the stage's own, even if no other has such."""
    return stage is not None and stage.path.rpartition(".")[2].isdigit() and position_of(node) < stage.stop


def _ends_in_norm(recording: Recording, container: ModuleCall, chain: Sequence[fx.Node], drop: Drop) -> bool:
    """Say whether the stage before is normed as well before it is handed on: then the norm is the stage's own."""
    stage = [node for node in chain if position_of(node) <= position_of(drop.source)]
    return drop.source in stage and _find_norm(recording, container, stage) is not None


def _find_norm(recording: Recording, container: ModuleCall, maps: list[fx.Node]) -> int | None:
    """Find the norm of each place that the last of some maps comes out of, but for what moves its axes."""
    inside = (call for call in recording.module_calls if call.parent == container.index)
    calls = {call.result: call for call in inside if isinstance(call.result, fx.Node)}
    for index in range(len(maps) - 1, 0, -1):
        node = maps[index]
        if function_of(node) in _NORMS or (node in calls and _norms_places(recording, calls[node], node)):
            return index
        if not is_layout(recording, node):
            return None
    return None


def _leave_turns(recording: Recording, container: ModuleCall, lowest: list[fx.Node]) -> list[fx.Node]:
    own = [is_layout(recording, node) and meta_of(node).module_call == container.index for node in lowest[1:]]
    return lowest[: len(lowest) - sum(1 for _ in itertools.takewhile(bool, reversed(own)))]


def _norms_places(recording: Recording, call: ModuleCall, node: fx.Node) -> bool:
    """Say whether a module has vectors of one width alone, that of the map, and no statistics of other images."""
    module, shape = recording.root.get_submodule(call.path), shape_of(node)
    sizes = {tuple(parameter.shape) for parameter in module.parameters()}
    return not list(module.buffers()) and len(sizes) == 1 and sizes <= {(shape[1],), (shape[-1],)}


def _makes_scores(recording: Recording, node: fx.Node) -> bool:
    """Say whether the last map is a 1x1 convolution's without norm or activation, and no block ends in it."""
    if not isinstance(module_of(recording, node), CONVOLUTION_LAYERS):
        return False
    holding = (call for call in recording.module_calls[1:] if call.start <= position_of(node) < call.stop)
    return not _mixes_inside(recording, next(holding, recording.module_calls[0]))


def _find_scores(recording: Recording, drop: Drop, container: ModuleCall, lowest: list[fx.Node]) -> ModuleCall | None:
    """Find the call beside the stages that ends in a bare 1x1 convolution, behind which nothing is learnt."""
    layer, last = module_of(recording, lowest[-1]), position_of(lowest[-1])
    if not isinstance(layer, CONVOLUTION_LAYERS) or set(layer.kernel_size) != {1}:
        return None
    if any(has_weights(recording, node) for node in recording.nodes[last + 1 :]):
        return None
    beside = [call for call in recording.module_calls if call.parent == container.index]
    start, stage = position_of(lowest[0]), drop.stage.path if drop.stage is not None else ""
    heads = (call for call in beside if start < call.start <= last < call.stop)
    return next((call for call in heads if not _are_listed(call.path, stage)), None)


def _are_listed(path: str, other: str) -> bool:
    """Say whether two modules are in one list, so that nothing tells a head from a stage."""
    container, _, index = path.rpartition(".")
    beside, _, place = other.rpartition(".")
    return index.isdigit() and place.isdigit() and container == beside


def _leave_join(recording: Recording, container: ModuleCall, before: list[fx.Node]) -> fx.Node:
    """Take the map that scores are made of, or the one before where that joins several looks at it."""
    joins = function_of(before[-1]) in JOINS and meta_of(before[-1]).module_call == container.index
    return before[-2] if joins and len(before) > 1 else before[-1]


def _last_before(nodes: list[fx.Node], module_call: ModuleCall) -> fx.Node:
    return [node for node in nodes if position_of(node) < module_call.start][-1]


def _find_stage_end(recording: Recording, drop: Drop) -> int:
    """Find where a list of stages ends that is called one by one, if the last drop's module is a stage and in one."""
    owner = drop.stage.path.rpartition(".")[0] if drop.stage is not None else ""
    module_calls = recording.module_calls
    if drop.stage is None or not owner or any(call.path == owner for call in module_calls):
        return len(recording.nodes)
    last = position_of(drop.nodes[-1])
    if not any(mixes(recording, node) for node in recording.nodes[last + 1 : drop.stage.stop]):
        return len(recording.nodes)
    return max(
        call.stop for call in module_calls if call.parent == drop.stage.parent and call.path.startswith(f"{owner}.")
    )


def _find_tail(
    recording: Recording, layouts: dict[fx.Node, Layout], drop: Drop, container: ModuleCall, lowest: list[fx.Node]
) -> ModuleCall | None:
    """Find where, at the end of the container, channels are added for the head: 1x1 convolutions, norms, activations.

    They are told from a stage by their classes, which are others than that of the module that holds the last drop.
    """
    if drop.module_call is None:
        return None
    first, last = position_of(lowest[0]), position_of(lowest[-1])
    children = [
        call for call in recording.module_calls if call.parent == container.index and first < call.start <= last
    ]
    stage = _class_of(recording, drop.module_call)
    added = list(itertools.takewhile(lambda call: _may_add(recording, call, stage), reversed(children)))
    if not added:
        return None
    tail = added[-1]
    return tail if layouts[lowest[-1]].channels > layouts[_last_before(lowest, tail)].channels else None


def _may_add(recording: Recording, module_call: ModuleCall, stage: type) -> bool:
    return _class_of(recording, module_call) is not stage and not _mixes_inside(recording, module_call)


def _mixes_inside(recording: Recording, module_call: ModuleCall) -> bool:
    return any(mixes(recording, node) for node in recording.nodes[module_call.start : module_call.stop])


def _class_of(recording: Recording, module_call: ModuleCall) -> type:
    return type(recording.root.get_submodule(module_call.path))


def _container_of(recording: Recording, drop: Drop) -> ModuleCall:
    if drop.stage is not None and drop.stage.parent is not None:
        return recording.module_calls[drop.stage.parent]
    return recording.module_calls[meta_of(drop.nodes[-1]).module_call]


def _find_head(recording: Recording, descent: Descent, drop: Drop) -> ModuleCall | None:
    """Find the outermost module call after the last drop that does away with the map."""
    if descent.after is None:
        return None
    first, last = position_of(descent.chain[-1]) + 1, position_of(descent.after)
    after_drop = position_of(drop.nodes[-1])
    holding = (call for call in recording.module_calls if after_drop < call.start <= first and last < call.stop)
    return next(holding, None)


def _is_learnt(recording: Recording, flow: nx.DiGraph, node: fx.Node) -> bool:
    """Say whether a map is more than the image, normalised or cut up."""
    # What lies behind the descent is made of what does.
    return node not in flow or any(has_weights(recording, value) for value in (node, *nx.ancestors(flow, node)))


def _name_levels(
    recording: Recording, maps: Maps, descent: Descent, ends: list[tuple[fx.Node, str]], drops: list[Drop]
) -> tuple[Level, ...]:
    def is_one_stage(module_call: ModuleCall) -> bool:
        return sum(module_call.start <= position_of(drop.nodes[-1]) < module_call.stop for drop in drops) < 2

    table = name_nodes(recording)
    levels: list[Level] = []
    # A model may enlarge its image first.
    start = maps.layouts[descent.chain[0]].scale
    products = itertools.accumulate((drop.factor for drop in drops), _multiply, initial=start)
    for (node, why), product in zip(ends, products, strict=True):
        reduction = tuple(max(1, round(steps)) for steps in product)
        name = name_value(recording, node, table, is_one_stage)
        if name is None or not _is_learnt(recording, descent.flow, node):
            continue
        # Drops beside each other do not add up.
        steps = _multiply_windows(maps.layouts[node]) or (
            _read_steps(maps.layouts[node], reduction) if any(drop.passed for drop in drops) else None
        )
        levels.append(Level(len(levels), name, join_axes(steps or reduction), maps.layouts[node], node, why))
    return tuple(levels)


def _multiply_windows(layout: Layout) -> tuple[int, ...] | None:
    """Multiply the steps of the windows between the image and a map, where nothing else makes it smaller."""
    if layout.windows is None:
        return None
    return tuple(math.prod(steps) for steps in zip(*(window.step for window in layout.windows), strict=True)) or None


def _read_steps(layout: Layout, counted: tuple[int, ...]) -> tuple[int, ...] | None:
    """Read the reduction off a map where that is clear: a grid of few places says little of it.

    What was counted stands where the map has as many places as it says, but for those at the border.

    >>> _read_steps(Layout("NCHW", (10, 10), 8, (33.1, 33.1)), (32, 32))
    (32, 32)
    >>> _read_steps(Layout("NCHW", (2, 2), 8, (32.0, 32.0)), (16, 16))
    (32, 32)
    """
    places = list(zip(layout.grid, layout.scale, counted, strict=True))
    if all(count >= _MANY and abs(count * scale / step - count) < 1 for count, scale, step in places):
        return counted
    steps = tuple(max(1, round(step)) for step in layout.scale)
    is_whole = all(abs(step - whole) <= _MOST_OFF * whole for step, whole in zip(layout.scale, steps, strict=True))
    return steps if is_whole else None


def _multiply(left: tuple[float, ...], right: tuple[int, ...]) -> tuple[float, ...]:
    return tuple(one * other for one, other in zip(left, right, strict=True))
