"""Decide what becomes of averages and blurs that lose their stride beside another branch."""

from __future__ import annotations

import dataclasses

from fxfeat.ir.recording import Recording
from fxfeat.stride.branches import Treatment, find_branches, treat_filter
from fxfeat.stride.change import Change
from fxfeat.stride.windows import densify, even_pads


def treat_side_branches(recording: Recording, changes: list[Change]) -> tuple[Change, ...]:
    """Decide about smoothing filters on one of several branches, which are not dilated or go altogether."""
    branches = find_branches(recording, [change.node for change in changes if _takes_stride(change)])
    treatments = {change.node: treat_filter(branches, change.node) for change in changes if _smooths_less(change)}
    plain = [node for node, treatment in treatments.items() if treatment is not Treatment.DILATED]
    pads = {node.args[0] for node in plain if node.args}
    kept = [change for change in changes if change.node not in pads or change.before.kind != "pad"]
    return tuple(_treat(change, treatments.get(change.node, Treatment.DILATED)) for change in kept)


def _takes_stride(change: Change) -> bool:
    return change.before.stride != change.after.stride


def _smooths_less(change: Change) -> bool:
    """Say whether a change takes the stride of an average pool or a blur."""
    smooths = change.before.kind == "average" or (change.before.kind == "conv" and not change.before.learned)
    return smooths and _takes_stride(change)


def _treat(change: Change, treatment: Treatment) -> Change:
    if treatment is Treatment.DILATED:
        return change
    plain = densify(change.before, change.after.stride, change.after.stride, dilated=False)
    # Zeros that stand for what lies beyond the map count in timm's averages.
    plain = dataclasses.replace(plain, counts_pads=plain.counts_pads or even_pads(plain) is None)
    dropped = treatment is Treatment.DROPPED and change.before.kind == "average"
    return Change(change.node, change.before, plain, dropped)
