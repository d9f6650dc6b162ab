"""What is known of the places of a map, and what was known of those that it was computed from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import fx

from fxfeat.vision.data_flow import list_origins
from fxfeat.vision.layout import Layout
from fxfeat.vision.shapes import Shape


def lay_out(numbers: torch.Tensor, layout: Layout, shape: Shape) -> torch.Tensor:
    """Write the number of each place of a grid at all that a value holds of the place.

    >>> lay_out(torch.arange(4), Layout("NLC", (2, 2), 3, (8.0, 8.0)), (1, 4, 3))[0, :, 2]
    tensor([0, 1, 2, 3])

    Args:
        numbers: one for each place, row by row.
        layout: how the value holds the map, without tokens before those of the grid.
        shape: of the value.
    """
    forms = {
        "NCHW": (1, 1, *layout.grid),
        "NHWC": (1, *layout.grid, 1),
        "NLC": (1, layout.places, 1),
        "LNC": (layout.places, 1, 1),
    }
    return numbers.reshape(forms[layout.order]).expand(shape)


def nearest_layouts(node: fx.Node, layouts: Mapping[fx.Node, Layout]) -> Iterator[Layout]:
    """Yield the layouts of the maps that a value was computed from, nearest first, and of none behind those."""
    origins = list_origins(node, passes=lambda origin: origin is node or origin not in layouts)
    return (layouts[origin] for origin in origins if origin is not node and origin in layouts)
