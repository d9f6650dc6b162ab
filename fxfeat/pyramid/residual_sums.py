"""What a block gives where its caller adds the residual: the sum, not the branch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import networkx as nx
from torch import fx

from fxfeat.ir.recording import Recording
from fxfeat.pyramid.block import Block
from fxfeat.pyramid.maps import Maps
from fxfeat.vision.data_flow import find_dominators
from fxfeat.vision.operations import ARITHMETIC, function_of, kind_of
from fxfeat.vision.shapes import position_of


def take_sums(recording: Recording, maps: Maps, flow: nx.DiGraph, run: Sequence[Block]) -> list[Block]:
    """Take for each block what everything after it goes through, where what the block returned is passed by.

    After each block come the same steps, such as a sum and a norm, before the next one begins. What comes after the
    last block alone, such as the final norm, belongs to none.

    Args:
        recording: of the model.
        maps: of that recording.
        flow: how the image flows through it.
        run: blocks of which each is fed by the one before.
    """
    above = find_dominators(flow, [maps.image])
    last = max(nx.descendants(flow, run[-1].node), key=position_of, default=run[-1].node)
    ends = [*(block.node for block in run[1:]), last]
    chains = [_climb(above, end) for end in ends]
    if all(block.node in chain for block, chain in zip(run, chains, strict=True)):
        return list(run)
    stops = [*(block.module_call.start for block in run[1:]), len(recording.nodes)]
    steps = [_find_steps(maps, *part) for part in zip(run, chains, stops, strict=True)]
    count = _count_alike([[kind_of(recording, node) for node in nodes] for nodes in steps])
    if not count:
        pairs = zip(run, chains, steps, strict=True)
        return [_take_sum(block, nodes) if block.node not in chain else block for block, chain, nodes in pairs]
    return [replace(block, node=nodes[count - 1]) for block, nodes in zip(run, steps, strict=True)]


def _take_sum(block: Block, steps: Sequence[fx.Node]) -> Block:
    """Take the first step after a block where it is arithmetic with what the block returned."""
    return replace(block, node=steps[0]) if steps and function_of(steps[0]) in ARITHMETIC else block


def _climb(above: dict[fx.Node, fx.Node | None], node: fx.Node | None) -> list[fx.Node]:
    chain = []
    while node is not None:
        chain.append(node)
        node = above.get(node)
    return chain


def _find_steps(maps: Maps, block: Block, chain: Sequence[fx.Node], stop: int) -> list[fx.Node]:
    """List the maps between a block and the next one that everything goes through, in order."""
    grid, first = maps.layouts[block.node].grid, position_of(block.node)
    between = [node for node in reversed(chain) if first < position_of(node) < stop and node in maps.layouts]
    return [node for node in between if maps.layouts[node].grid == grid]


def _count_alike(kinds: Sequence[Sequence[str]]) -> int:
    """Count how many steps are the same after every block."""
    together = zip(*kinds, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda row: len(set(row)) == 1, together))
