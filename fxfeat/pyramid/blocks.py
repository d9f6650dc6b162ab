"""The blocks of a flat model: calls of one class, one after another, at one resolution."""

from __future__ import annotations

import math

import networkx as nx
from torch import fx, nn

from fxfeat.ir.module_call import ModuleCall
from fxfeat.ir.recording import Recording
from fxfeat.names.table import NameTable, name_nodes
from fxfeat.pyramid.block import Block
from fxfeat.pyramid.drops import Drop
from fxfeat.pyramid.formats import TOKENS
from fxfeat.pyramid.levels import Level
from fxfeat.pyramid.maps import Maps
from fxfeat.pyramid.residual_sums import take_sums
from fxfeat.vision.data_flow import find_chain, results_of
from fxfeat.vision.layout import Layout
from fxfeat.vision.learnt import has_weights, mixes
from fxfeat.vision.reduction import Reduction, join_axes
from fxfeat.vision.shapes import position_of
from fxfeat.vision.value_names import name_value

_LEAST_SHARE = 0.5
_HOLDERS = (nn.ModuleList, nn.ModuleDict)


def find_blocks(
    recording: Recording, maps: Maps, flow: nx.DiGraph, drops: list[Drop], least: int = 2
) -> tuple[Level, ...]:
    """Find the blocks of a model that works at one resolution, such as a vision transformer.

    They are calls of modules of one class, or in one list, by one caller, each fed by the one before, whose maps have
    one grid. They come after all drops in resolution, all of which one stem makes, and are at least half of the model
    up to their end. What goes lower behind blocks of tokens and makes no tokens is a neck, and no drop of theirs.

    Args:
        recording: of the model in eval mode.
        maps: of that recording.
        flow: how the image flows through it.
        drops: the drops in resolution.
        least: how many blocks there have to be.

    Returns:
        One level for each block; none where the model is not flat.
    """
    every = [run for run in _find_runs(recording, maps, flow) if len(run) >= least]
    runs = [run for run in every if all(_is_before(drop, run) for drop in drops)]
    runs = runs or [run for run in every if _has_neck(maps, drops, run)]
    run = max(runs, key=lambda run: (_count_parameters(recording, run), -run[0].module_call.index), default=[])
    drops = [drop for drop in drops if run and _is_before(drop, run)]
    if not run or not _is_most(recording, run) or not _is_one_stem(recording, flow, drops, run):
        return ()
    factors = [drop.factor for drop in drops] or [tuple(map(round, maps.layouts[run[0].node].scale))]
    reduction = join_axes([math.prod(axis) for axis in zip(*factors, strict=True)])
    return _make_levels(recording, maps, take_sums(recording, maps, flow, _take_rounds(run)), reduction)


def _is_before(drop: Drop, run: list[Block]) -> bool:
    return all(position_of(node) < run[0].module_call.start for node in drop.nodes)


def _has_neck(maps: Maps, drops: list[Drop], run: list[Block]) -> bool:
    """Say whether all that goes lower behind blocks of tokens makes no tokens again, as a stage of them would."""
    tokens = [node for node, layout in maps.layouts.items() if layout.order in TOKENS]
    if run[-1].node not in tokens:
        return False
    end = max(run[-1].module_call.stop, *map(position_of, tokens))
    return all(position_of(drop.nodes[0]) >= end for drop in drops if not _is_before(drop, run))


def _take_rounds(run: list[Block]) -> list[Block]:
    """Take the last part of each block where its parts stand in lists beside each other, with the same number."""
    places = [block.path.rpartition(".") for block in run]
    parts = len({container for container, _, _ in places})
    rounds = [places[start : start + parts] for start in range(0, len(places), parts)]
    order = [container for container, _, _ in rounds[0]]
    for one in rounds:
        numbers = {number for _, _, number in one}
        if [container for container, _, _ in one] != order or len(numbers) > 1 or not numbers.pop().isdigit():
            return run
    return run[parts - 1 :: parts]


def _make_levels(recording: Recording, maps: Maps, run: list[Block], reduction: Reduction) -> tuple[Level, ...]:
    table = name_nodes(recording)
    levels = []
    for index, block in enumerate(run):
        name = _name_block(recording, block, table)
        kind = type(recording.root.get_submodule(block.path)).__name__
        why = f"block {index + 1} of {len(run)}: {kind}, repeated at one resolution"
        levels.append(Level(index, name, reduction, maps.layouts[block.node], block.node, why))
    return tuple(levels)


def _name_block(recording: Recording, block: Block, table: NameTable) -> str:
    """Name what a block returned by the block or a module inside it, not by one around it."""
    name = name_value(recording, block.node, table, lambda call: call.index >= block.module_call.index)
    return name or block.module_call.path


def _find_runs(recording: Recording, maps: Maps, flow: nx.DiGraph) -> list[list[Block]]:
    groups: dict[object, list[Block]] = {}
    lists: dict[object, list[Block]] = {}
    wholes: dict[object, dict[str, Block]] = {}
    spine = set(find_chain(flow, [maps.image], results_of(recording)))
    for module_call in recording.module_calls[1:]:
        module = recording.root.get_submodule(module_call.path)
        node = _find_map(module_call, maps.layouts, flow)
        if node is None or next(module.children(), None) is None:
            continue
        layout = maps.layouts[node]
        place = (module_call.parent, layout.grid, layout.order)
        container, _, index = module_call.path.rpartition(".")
        owner, _, number = container.rpartition(".")
        holds = number.isdigit() and isinstance(recording.root.get_submodule(container), _HOLDERS)
        if holds and (node not in spine or _holds_parts(recording, container)):
            wholes.setdefault((owner, *place), {})[container] = Block(module_call, node, container)
            continue
        # The class of a container tells nothing, so what stands alone is not taken for one of a list.
        listed = index.isdigit() and type(module) is nn.Sequential
        groups.setdefault((type(module), listed, *place), []).append(Block(module_call, node))
        if index.isdigit():
            lists.setdefault((container, *place), []).append(Block(module_call, node))
    every = [
        *groups.values(),
        *(list(parts.values()) for parts in wholes.values()),
        *(_drop_first_alone(recording, blocks) for blocks in lists.values()),
    ]
    return [_take_line(flow, group) for group in every]


def _holds_parts(recording: Recording, container: str) -> bool:
    """Say whether what a list holds are parts of one block: some mix places, others work on each by itself."""
    calls = [call for call in recording.module_calls if call.path.rpartition(".")[0] == container]
    mixing = [any(mixes(recording, node) for node in recording.nodes[call.start : call.stop]) for call in calls]
    return any(mixing) and not all(mixing)


def _drop_first_alone(recording: Recording, listed: list[Block]) -> list[Block]:
    """Drop what comes in a list before the blocks, of a class of its own: it makes what they work on."""
    kinds = [type(recording.root.get_submodule(block.module_call.path)) for block in listed]
    first = next((index for index, kind in enumerate(kinds) if kinds.count(kind) > 1), len(kinds))
    return listed[first:]


def _find_map(module_call: ModuleCall, layouts: dict[fx.Node, Layout], flow: nx.DiGraph) -> fx.Node | None:
    """Find the first map among what a module returned."""
    result = module_call.result
    returned = [result] if isinstance(result, fx.Node) else [node for _, node in module_call.result_nodes]
    return next((node for node in returned if node in layouts and node in flow), None)


def _take_line(flow: nx.DiGraph, group: list[Block]) -> list[Block]:
    """Take the blocks of which each is fed by the one before."""
    line = group[:1]
    for block in group[1:]:
        if block.node is not line[-1].node and nx.has_path(flow, line[-1].node, block.node):
            line.append(block)
    return line


def _is_most(recording: Recording, run: list[Block]) -> bool:
    """Say whether a run is at least half of all up to its end, by its parameters or by its mixing operations."""
    start, stop = run[0].module_call.start, run[-1].module_call.stop
    before = {call.path for call in recording.module_calls if call.stop <= stop and (call.leaf or call.start < start)}
    everything = before | {block.path for block in run}
    if _count_parameters(recording, run) >= _LEAST_SHARE * _count_in(recording, everything):
        return True
    mixing = [node for node in recording.nodes[:stop] if mixes(recording, node)]
    return sum(position_of(node) >= start for node in mixing) >= sum(position_of(node) < start for node in mixing)


def _count_parameters(recording: Recording, run: list[Block]) -> int:
    return _count_in(recording, {block.path for block in run})


def _count_in(recording: Recording, paths: set[str]) -> int:
    """Count the numbers of the parameters of some modules, shared ones once."""
    parameters = {parameter for path in paths for parameter in recording.root.get_submodule(path).parameters()}
    return sum(parameter.numel() for parameter in parameters)


def _is_one_stem(recording: Recording, flow: nx.DiGraph, drops: list[Drop], run: list[Block]) -> bool:
    """Say whether all drops are in one module's call, or are one drop, but for those of the image itself."""
    drops = [drop for drop in drops if _is_learnt(recording, flow, drop)]
    if len(drops) < 2:
        return True
    first, last = position_of(drops[0].nodes[0]), position_of(drops[-1].nodes[-1])
    start = run[0].module_call.start
    return any(call.start <= first and last < call.stop <= start for call in recording.module_calls)


def _is_learnt(recording: Recording, flow: nx.DiGraph, drop: Drop) -> bool:
    return any(has_weights(recording, node) for node in (*drop.nodes, *nx.ancestors(flow, drop.nodes[0])))
