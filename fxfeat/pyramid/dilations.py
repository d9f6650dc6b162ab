"""Where a network is dilated in place of a stride: stages that follow each other at one resolution."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from torch import fx

from fxfeat.ir.recording import Recording
from fxfeat.pyramid.descent import Descent
from fxfeat.pyramid.drops import Drop, find_drops
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
    if not drops:
        return drops
    doublings = _find_doublings(recording, descent, position_of(drops[0].nodes[0]))
    dilated = [Drop((node,), source, (1,) * len(layouts[source].grid)) for source, node in doublings]
    while dilated:
        placed = find_drops(recording, descent, layouts, dilated)
        alike = {now.nodes for before, now in itertools.pairwise(placed) if _are_stages(recording, before, now)}
        if all(drop.nodes in alike for drop in dilated):
            return placed
        dilated = [drop for drop in dilated if drop.nodes in alike]
    return drops


def _are_stages(recording: Recording, before: Drop, now: Drop) -> bool:
    if before.stage is None or now.stage is None or now.stage.leaf or before.stage.parent != now.stage.parent:
        return False
    first, second = (recording.root.get_submodule(drop.stage.path) for drop in (before, now) if drop.stage)
    return type(first) is type(second) or _are_numbered(before.stage.path, now.stage.path)


def _are_numbered(first: str, second: str) -> bool:
    """Say whether two paths differ in a number at their ends alone: a stage of one block may be that block itself.

    >>> _are_numbered("layer2", "layer3"), _are_numbered("layer2", "context3")
    (True, False)
    """
    stem = first.rstrip("0123456789")
    return stem == second.rstrip("0123456789") and stem not in ("", first) and not stem.endswith(".")


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
