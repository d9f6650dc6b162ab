"""Where a network is dilated in place of a stride: stages that follow each other at one resolution."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from torch import fx

from fxfeat.ir.module_call import ModuleCall
from fxfeat.ir.recording import Recording
from fxfeat.pyramid.descent import Descent
from fxfeat.pyramid.drops import Drop
from fxfeat.vision.layout import Layout
from fxfeat.vision.learnt import mixes
from fxfeat.vision.operations import module_of
from fxfeat.vision.shapes import position_of

_DILATION_ARGUMENT = 5


def add_dilated(
    recording: Recording, descent: Descent, layouts: dict[fx.Node, Layout], drops: list[Drop]
) -> list[Drop]:
    """Add to the drops of a descent the places where dilation doubles, as if the stride that it stands for were there.

    These lie in a stage of the same class and in the same container as the stage of the drop before. What grows its
    dilation within a stage or in a head, for context, is none.
    """
    added = list(drops)
    if not drops:
        return added
    lowering = {node for drop in drops for node in drop.nodes}
    for source, node in _find_doublings(recording, descent, position_of(drops[0].nodes[0])):
        before = [drop for drop in added if position_of(drop.nodes[-1]) < position_of(node)][-1]
        stage = _find_stage(recording, node, before, [*lowering, *(drop.nodes[0] for drop in added)])
        if stage is None:
            continue
        given = [value for value in descent.chain if position_of(value) < stage.start]
        same = (1,) * len(layouts[source].grid)
        drop = Drop((node,), given[-1] if given else source, same, stage, stage)
        added.insert(added.index(before) + 1, drop)
    return added


def _find_doublings(recording: Recording, descent: Descent, first: int) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Yield convolutions whose dilation is twice that of all before them, and the last map of the chain before each."""
    rate = 1
    for before, after in itertools.pairwise(descent.chain):
        between = recording.nodes[position_of(before) + 1 : position_of(after) + 1]
        rates = {_dilation_of(recording, node): node for node in reversed(between) if mixes(recording, node)}
        if position_of(before) >= first and set(rates) <= {rate, 2 * rate} and 2 * rate in rates:
            yield before, rates[2 * rate]
            rate *= 2


def _dilation_of(recording: Recording, node: fx.Node) -> int:
    module = module_of(recording, node)
    if module is not None:
        given: Any = getattr(module, "dilation", 1)
    else:
        given = node.kwargs.get("dilation", node.args[_DILATION_ARGUMENT] if len(node.args) > _DILATION_ARGUMENT else 1)
    listed = given if isinstance(given, (tuple, list)) else (given,)
    return max((rate for rate in listed if isinstance(rate, int)), default=1)


def _find_stage(recording: Recording, node: fx.Node, before: Drop, others: list[fx.Node]) -> ModuleCall | None:
    """Find the outermost call that holds a node and no drop, if it is a stage like that of the drop before."""
    if before.stage is None or before.stage.leaf:
        return None
    at, kind = position_of(node), type(recording.root.get_submodule(before.stage.path))
    taken = [position_of(other) for other in others]
    holding = (
        call
        for call in recording.module_calls[1:]
        if call.start <= at < call.stop and not any(call.start <= other < call.stop for other in taken)
    )
    stage = next(holding, None)
    if stage is None or stage.parent != before.stage.parent:
        return None
    return stage if type(recording.root.get_submodule(stage.path)) is kind else None
