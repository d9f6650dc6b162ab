"""Where a descent drops in resolution, and which module's call holds each drop."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from torch import fx

from fxfeat.ir.module_call import ModuleCall
from fxfeat.ir.recording import Recording
from fxfeat.pyramid.descent import Descent
from fxfeat.pyramid.flow import Sources, find_sources
from fxfeat.pyramid.resolution import DROP, is_drop
from fxfeat.stride.read_windows import read_window
from fxfeat.vision.layout import Layout
from fxfeat.vision.learnt import has_weights, mixes
from fxfeat.vision.operations import function_of
from fxfeat.vision.shapes import is_tensor, position_of, shape_of


@dataclass(frozen=True)
class Drop:
    """One step down in resolution.

    Attributes:
        nodes: the operations that lower the resolution: several where a shortcut does so too.
        source: the map of the higher resolution that goes into the module that holds the drop.
        factor: how many times lower the resolution is after it, along each axis.
        module_call: the outermost call of a module that holds this drop alone; None where only the whole model does.
        stage: the outermost call that holds this drop and no other, even if what it was given is not the source.
        passed: whether some of the image passes by the source, because resolutions run side by side.
    """

    nodes: tuple[fx.Node, ...]
    source: fx.Node
    factor: tuple[int, ...]
    module_call: ModuleCall | None = None
    stage: ModuleCall | None = None
    passed: bool = False


def find_drops(
    recording: Recording, descent: Descent, layouts: dict[fx.Node, Layout], dilated: Sequence[Drop] = ()
) -> list[Drop]:
    """Find the drops of a descent, in order.

    Args:
        recording: of the model in eval mode.
        descent: its maps on the way down.
        layouts: of the maps.
        dilated: what is to count as drops as well, though the resolution stays; their modules are found here.
    """
    sources = find_sources(descent.flow, layouts)
    lowering = [node for node in sources if node in layouts and _lowers(node, sources, layouts)]
    drops: list[Drop] = []
    for before, after in zip(descent.chain, descent.chain[1:], strict=False):
        if is_drop(layouts[before], layouts[after]):
            region = [node for node in lowering if position_of(before) < position_of(node) <= position_of(after)]
            drops += _split(recording, region, before, layouts[after], sources, layouts)
    drops = sorted([*drops, *dilated], key=lambda drop: position_of(drop.nodes[-1]))
    return [_place(recording, descent, drop, drops, sources, layouts) for drop in drops]


def _lowers(node: fx.Node, sources: Sources, layouts: dict[fx.Node, Layout]) -> bool:
    return any(is_drop(layouts[source], layouts[node]) for source in sources[node])


def _split(
    recording: Recording,
    region: list[fx.Node],
    before: fx.Node,
    after: Layout,
    sources: Sources,
    layouts: dict[fx.Node, Layout],
) -> list[Drop]:
    """Split a step of the chain into drops where it passes by resolutions that run side by side.

    Each of those ends where the last of its maps goes down.
    """
    sizes = _find_sizes(region, layouts[before], after, layouts)
    if not sizes:
        return [Drop(tuple(region), before, _measure(recording, region[0], sources, layouts))]
    drops = []
    for size, following in itertools.pairwise([layouts[before].size, *sizes, after.size]):
        lowered = {node: [s for s in sources[node] if _is_near(layouts[s].size, size)] for node in region}
        last = [node for node in region if any(is_drop(layouts[s], layouts[node]) for s in lowered[node])][-1:]
        factor = (max(1, round(following / size)),) * len(after.scale)
        drops += [Drop((node,), max(lowered[node], key=position_of), factor, passed=True) for node in last]
    return drops


def _measure(recording: Recording, node: fx.Node, sources: Sources, layouts: dict[fx.Node, Layout]) -> tuple[int, ...]:
    """Say how many times lower an operation makes the resolution along each axis.

    Measured at the operation, not over the whole chain: convolutions without padding shrink a grid without a stride.
    A window says so itself: of few places, those that are cut off at the border are many.
    """
    window = read_window(recording, node)
    if window is not None and window.kind != "pad" and max(window.stride) > 1 and layouts[node].order == "NCHW":
        return window.stride
    before = [layouts[source] for source in sources[node] if is_drop(layouts[source], layouts[node])]
    source = max(before, key=lambda layout: layout.size)
    return tuple(max(1, round(now / then)) for then, now in zip(source.scale, layouts[node].scale, strict=True))


def _find_sizes(region: list[fx.Node], before: Layout, after: Layout, layouts: dict[fx.Node, Layout]) -> list[float]:
    """List the sizes between two maps of the chain that maps beside it have, one for each resolution."""
    sizes: list[float] = []
    for size in sorted(layouts[node].size for node in region):
        if size >= DROP * (sizes[-1] if sizes else before.size) and after.size >= DROP * size:
            sizes.append(size)
    return sizes


def _is_level(left: Layout, right: Layout) -> bool:
    return not is_drop(left, right) and not is_drop(right, left)


def _is_near(left: float, right: float) -> bool:
    return max(left, right) < DROP * min(left, right)


def _place(
    recording: Recording,
    descent: Descent,
    drop: Drop,
    drops: list[Drop],
    sources: Sources,
    layouts: dict[fx.Node, Layout],
) -> Drop:
    """Find the module that holds a drop, and the map that goes into it."""
    others = [node for other in drops if other is not drop for node in other.nodes]
    holding = [
        call for call in recording.module_calls[1:] if _holds(call, drop.nodes, all) and not _holds(call, others, any)
    ]
    drop = replace(drop, stage=next(iter(holding), None))
    is_dilated = max(drop.factor) == 1
    fitting = (call for call in holding if is_dilated or not _works_first(recording, descent, call, drop.nodes))
    module_call = next(fitting, None)
    if module_call is None:
        return drop
    above = layouts[drop.source]
    if drop.passed:
        inside = [node for node in sources if module_call.start <= position_of(node) < module_call.stop]
        entering = {source for node in inside for source in sources[node]}
    else:
        entering = set(descent.chain)
    given = [s for s in entering if position_of(s) < module_call.start and _is_level(layouts[s], above)]
    return replace(drop, module_call=module_call, source=max(given, key=position_of, default=drop.source))


def _holds(module_call: ModuleCall, nodes: Iterable[fx.Node], quantifier: Callable[[Iterable[bool]], bool]) -> bool:
    return quantifier(module_call.start <= position_of(node) < module_call.stop for node in nodes)


def _works_first(recording: Recording, descent: Descent, module_call: ModuleCall, nodes: tuple[fx.Node, ...]) -> bool:
    """Say whether a module's call does most of its work at the higher resolution, before it lowers it.

    Then what it was given is not yet the feature of that resolution: a stage of blocks with the reduction at its end,
    or several convolutions and a pool in one container. One convolution and a pool are a strided convolution in parts.
    """
    first, last = position_of(nodes[0]), position_of(nodes[-1])
    before = [node for node in descent.chain if module_call.start <= position_of(node) < first]
    blocks = [
        call
        for call in recording.module_calls
        if module_call.start <= call.start and call.stop <= first and not call.leaf and _returns(call, before)
    ]
    worked = {n for call in blocks for n in recording.nodes[call.start : call.stop] if mixes(recording, n)}
    # One block that adds to what it was given is a stage of depth one, unless others follow behind the drop.
    sums = [position_of(node) for node in descent.chain if _is_sum(node)]
    adds_before = any(call.start <= position < call.stop for position in sums for call in blocks)
    if worked and adds_before and not any(last < position < module_call.stop for position in sums):
        return True
    left = [node for node in recording.nodes[first : module_call.stop] if mixes(recording, node)]
    # A body holds stages, however long those after the drop are.
    body = 2 * (len(worked) + len(left)) > sum(mixes(recording, node) for node in recording.nodes)
    if len(worked) > (1 if body else max(1, len(left))):
        return True
    after = recording.nodes[last + 1 : module_call.stop]
    ends = not any(has_weights(recording, node) for node in after)
    return ends and sum(mixes(recording, node) for node in before) > 1


def _is_sum(node: fx.Node) -> bool:
    terms = [source for source in node.all_input_nodes if is_tensor(source) and shape_of(source) == shape_of(node)]
    return function_of(node).strip("_") in ("add", "iadd") and len(terms) > 1


def _returns(module_call: ModuleCall, nodes: list[fx.Node]) -> bool:
    return module_call.result in nodes or bool(module_call.result_nodes and module_call.result_nodes[0][1] in nodes)
