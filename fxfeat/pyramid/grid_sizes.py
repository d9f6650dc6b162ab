"""How large the grid of a map is for an image of any size: by the windows that slide between the two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from fxfeat.ir.recording import Recording
from fxfeat.stride.read_windows import read_window
from fxfeat.stride.windows import Window
from fxfeat.vision.layout import Layout, Sliding


@dataclass(frozen=True)
class Slid:
    """The windows between an image and a value, and the grid that they leave."""

    windows: tuple[Sliding, ...]
    grid: tuple[int, ...]


def follow_windows(
    recording: Recording, image: fx.Node, layouts: Mapping[fx.Node, Layout]
) -> dict[fx.Node, tuple[Sliding, ...]]:
    """List the windows between an image and each map, where nothing else changes the size of the grid.

    What a model works out for itself (padding to a multiple, a size to resize to) is no window, nor is what it does to
    tokens: behind that, no map is listed.
    """
    slid: dict[fx.Node, Slid] = {image: Slid((), layouts[image].grid)}
    for node in recording.nodes:
        sources = [slid[source] for source in node.all_input_nodes if source in slid]
        read = _follow(recording, node, sources, layouts.get(node)) if sources else None
        if read is not None:
            slid[node] = read
    return {node: slid[node].windows for node in layouts if node in slid}


def _follow(recording: Recording, node: fx.Node, sources: list[Slid], layout: Layout | None) -> Slid | None:
    window = read_window(recording, node)
    if window is None:
        # Values between two maps, such as one that is flattened, are followed too.
        alike = [source for source in sources if layout is None or source.grid == layout.grid]
        return max(alike, key=lambda source: len(source.windows), default=None)
    if len(window.stride) != len(sources[0].grid):
        return None
    sliding = _slide(window)
    grid = sliding.size_of(sources[0].grid)
    return Slid((*sources[0].windows, sliding), grid) if layout is not None and layout.grid == grid else None


def _slide(window: Window) -> Sliding:
    return Sliding(window.reach, window.stride, tuple(map(sum, window.pads)), window.ceil)
