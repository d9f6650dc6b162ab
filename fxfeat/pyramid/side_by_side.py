"""Networks that keep several resolutions side by side: each level is what the last of their modules makes of it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from fxfeat.ir.module_call import ModuleCall
from fxfeat.ir.recording import Recording
from fxfeat.vision.layout import Layout
from fxfeat.vision.shapes import position_of

Ends = list[tuple[fx.Node, str]]
_LEAST = 2


def take_last_branches(recording: Recording, layouts: Mapping[fx.Node, Layout], ends: Ends) -> Ends:
    """Put what the last module on several resolutions gives in place of the maps where these begin.

    Such modules are of one class, and each returns maps of two resolutions or more. The lowest comes up after the first
    of them has run: what fuses the maps of a finished encoder is a neck.

    Args:
        recording: of the model in eval mode.
        layouts: of its maps.
        ends: the map of each level and why it was taken, of falling resolution.
    """
    lowest = layouts[ends[-1][0]].grid
    begins = min(position_of(node) for node, layout in layouts.items() if layout.grid == lowest)
    calls = [call for call in recording.module_calls[1:] if len(_list_grids(call, layouts)) >= _LEAST]
    kinds = {type(recording.root.get_submodule(call.path)) for call in calls if call.stop <= begins}
    alike = [call for call in calls if type(recording.root.get_submodule(call.path)) in kinds and call.start >= begins]
    if not alike:
        return ends
    last = max(alike, key=lambda call: (call.stop, -call.index))
    given = _list_grids(last, layouts)
    why = f"what {last.path} gives at this resolution, the last module on several side by side"
    # A head that goes down once more, from one resolution to the next, has levels of its own behind them.
    begun = {layouts[node].grid for node, _ in ends if position_of(node) < last.stop} & given.keys()
    return [(given[layouts[node].grid], why) if layouts[node].grid in begun else (node, end) for node, end in ends]


def _list_grids(call: ModuleCall, layouts: Mapping[fx.Node, Layout]) -> dict[tuple[int, ...], fx.Node]:
    """Map the grids of the maps that a call returns to these."""
    return {layouts[node].grid: node for _, node in call.result_nodes if node in layouts}
