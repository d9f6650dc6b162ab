"""Decide what becomes of averages and blurs that lose their stride beside another branch."""

from __future__ import annotations

import dataclasses

from fxfeat.ir.recording import Recording
from fxfeat.stride.branches import Branches, Treatment
from fxfeat.stride.change import Change
from fxfeat.stride.windows import densify, even_pads


def treat_side_branches(recording: Recording, changes: list[Change]) -> tuple[Change, ...]:
    """Decide about smoothing filters on one of several branches, which are not dilated or go altogether."""
    strided = [held.node for held in changes if held.before.stride != held.after.stride]
    branches = Branches(recording, strided)
    treatments = {held.node: branches.treat(held.node) for held in changes if _smooths_less(held)}
    pads = {held.args[0] for held, treatment in treatments.items() if treatment is not Treatment.DILATED and held.args}
    kept = [held for held in changes if held.node not in pads or held.before.kind != "pad"]
    return tuple(_treated(held, treatments.get(held.node, Treatment.DILATED)) for held in kept)


def _smooths_less(change: Change) -> bool:
    """Say whether a change takes the stride of an average pool or a blur."""
    smooths = change.before.kind == "average" or (change.before.kind == "conv" and not change.before.learned)
    return smooths and change.before.stride != change.after.stride


def _treated(change: Change, treatment: Treatment) -> Change:
    if treatment is Treatment.DILATED:
        return change
    plain = densify(change.before, change.after.stride, change.after.stride, dilated=False)
    # Zeros that stand for what lies beyond the map count in timm's averages.
    plain = dataclasses.replace(plain, counts_pads=plain.counts_pads or even_pads(plain) is None)
    dropped = treatment is Treatment.DROPPED and change.before.kind == "average"
    return Change(change.node, change.before, plain, dropped)
