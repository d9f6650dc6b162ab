"""Find a model's levels, whichever rule it takes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import networkx as nx
from torch import nn

from fxfeat.errors import TraceError
from fxfeat.ir.recording import Recording
from fxfeat.pyramid.blocks import find_blocks
from fxfeat.pyramid.descent import find_descent
from fxfeat.pyramid.dilations import add_dilated
from fxfeat.pyramid.drops import find_drops
from fxfeat.pyramid.flow import draw_image_flow
from fxfeat.pyramid.formats import TOKENS
from fxfeat.pyramid.levels import Level, find_levels
from fxfeat.pyramid.maps import Maps, find_maps
from fxfeat.trace.setup import Setup, record_mode
from fxfeat.vision.learnt import has_weights, mixes
from fxfeat.vision.reduction import join_axes
from fxfeat.vision.shapes import position_of

_MOST_OFF = 0.1
"""How far a step may be from a whole number, as a part of it: without padding a map shrinks beside its stride."""


@dataclass(frozen=True)
class LevelSearch:
    """The levels of a model, and where they were found.

    Attributes:
        recording: of the model in eval mode, that the levels' nodes belong to.
        maps: which of its values are maps of the image, and in which layout.
        levels: the levels, at least one.
        flat: whether they are blocks at one resolution rather than the ends of resolutions.
    """

    recording: Recording
    maps: Maps
    levels: tuple[Level, ...]
    flat: bool


def search_levels(setup: Setup) -> LevelSearch:
    """Find the levels of a model, be it hierarchical or flat.

    Args:
        setup: the model and its example, from ``fxfeat.trace.setup.read_setup``.

    Raises:
        TraceError: where it has none, or takes no image.
    """
    recording = _record_open(setup)
    maps = find_maps(setup, recording)
    flow = draw_image_flow(recording, maps.image)
    descent = find_descent(recording, flow, maps)
    drops = find_drops(recording, descent, maps.layouts)
    # At the bottom of a U, two convolutions of one class are no flat model.
    blocks = find_blocks(recording, maps, flow, drops, least=2 if descent.whole else 3)
    if blocks:
        return LevelSearch(recording, maps, _measure_levels(recording, maps, blocks), True)
    levels = find_levels(recording, maps, descent, add_dilated(recording, descent, maps.layouts, drops))
    if not levels:
        raise TraceError(_explain_none(recording, maps))
    if _is_projection_alone(recording, flow, levels):
        raise TraceError(_explain_projection(recording, maps, flow, levels[0]))
    return LevelSearch(recording, maps, _measure_levels(recording, maps, levels), False)


def _measure_levels(recording: Recording, maps: Maps, levels: tuple[Level, ...]) -> tuple[Level, ...]:
    """Measure the levels of a model that brings its image to one size against the image it was given."""
    if not maps.resized:
        return levels
    return tuple(_measure_level(recording, maps, level) for level in levels)


def _measure_level(recording: Recording, maps: Maps, level: Level) -> Level:
    steps = [round(step) for step in level.layout.scale]
    if any(abs(step - whole) > _MOST_OFF * whole for step, whole in zip(level.layout.scale, steps, strict=True)):
        size, grid = ("x".join(map(str, sizes)) for sizes in (maps.extent.grid, level.layout.grid))
        raise TraceError(
            f"{type(recording.root).__name__} brings its images to one size: {level.module} is {grid} for an image of "
            f"{size}, and one step of it is no whole number of pixels. Pass example_inputs= with an image of the size "
            "that it brings them to."
        )
    return replace(level, reduction=join_axes(steps), layout=replace(level.layout, image=maps.extent.grid))


def _record_open(setup: Setup) -> Recording:
    """Record the model, entering PyTorch's own stacks of blocks."""
    recording = record_mode(setup, False)
    called = {call.path for call in recording.module_calls if call.leaf}
    stacks = {path for path in called if isinstance(recording.root.get_submodule(path), nn.TransformerEncoder)}
    return record_mode(setup, False, frozenset(stacks)) if stacks else recording


def _is_projection_alone(recording: Recording, flow: nx.DiGraph, levels: tuple[Level, ...]) -> bool:
    """Say whether the only map is what one layer makes of the image, and all that sees places together comes later."""
    node = levels[0].node
    before = [value for value in (node, *nx.ancestors(flow, node)) if has_weights(recording, value)]
    return (
        len(levels) == 1 and len(before) == 1 and any(mixes(recording, value) for value in nx.descendants(flow, node))
    )


def _explain_projection(recording: Recording, maps: Maps, flow: nx.DiGraph, level: Level) -> str:
    after = sorted(nx.descendants(flow, level.node), key=position_of)
    if any(node in maps.layouts and maps.layouts[node].order in TOKENS for node in (level.node, *after)):
        made = "the projection that makes its tokens"
        lost = (
            "the tokens after it lie on the image cannot be followed, since they are dropped, merged, or put into an "
            "order that depends on values"
        )
    else:
        first = next((node for node in after if node not in maps.layouts), level.node)
        made, lost = "the first layer's", f"what {first} gives of it lies on the image cannot be followed"
    return (
        f"{type(recording.root).__name__} has no levels. Its only map is {level.module}, {made}; where {lost}. To take "
        "values by name, use fxfeat.create_feature_extractor."
    )


def _explain_none(recording: Recording, maps: Maps) -> str:
    name = type(recording.root).__name__
    grids = Counter(layout.grid for node, layout in maps.layouts.items() if node is not maps.image)
    seen = ", ".join(f"{count} of {'x'.join(map(str, grid))}" for grid, count in grids.most_common(4)) or "none"
    size = "x".join(map(str, maps.extent.grid))
    return (
        f"{name} has no levels. Looked for: maps that everything computed from the image goes through and whose "
        "resolution drops on the way, or blocks of one class repeated at one resolution. Found: for an image of "
        f"{size}, maps of these sizes: {seen}.{_explain_turned(maps)} To take values by name, use "
        "fxfeat.create_feature_extractor."
    )


def _explain_turned(maps: Maps) -> str:
    if maps.turned is None:
        return ""
    return (
        f" What {maps.turned} gives does not lie in the image's order, and neither does what is computed from it alone:"
        " it is no map of the image."
    )
