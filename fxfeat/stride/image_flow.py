"""Follow the image through a recording and find every window that loses its stride or is dilated."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from torch import fx

from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import nodes_in
from fxfeat.stride.change import Change
from fxfeat.stride.grid import Axes, Grid
from fxfeat.stride.read_windows import read_window
from fxfeat.stride.refusals import refuse, refuse_fixed_size, refuse_growth, refuse_loss, refuse_window
from fxfeat.stride.shape_rules import (
    first_tensor,
    forgets_positions,
    grown_to,
    image,
    is_computed_pad,
    is_image,
    padded,
    refined,
    shrunk_by,
    strided,
)
from fxfeat.stride.slices import crops, is_slice, starts_of, steps_of
from fxfeat.stride.smoothing import treat_side_branches
from fxfeat.stride.windows import Window, densify
from fxfeat.vision.shapes import shape_of


@dataclass(frozen=True)
class Flow:
    """What a limit means for one recording: where each value lies, and what is to change.

    ``reductions`` are those of what convolutions, pools and other downsamplings return in the recorded model.
    """

    recording: Recording
    grids: dict[fx.Node, Grid]
    changes: tuple[Change, ...]
    reductions: tuple[int, ...]

    @property
    def planned(self) -> list[Window]:
        """The windows of the changed model, in the order in which they run."""
        changes = {change.node: change for change in self.changes}
        windows = []
        for node in self.recording.graph.nodes:
            window, change = read_window(self.recording, node), changes.get(node)
            if window is not None and window.kind != "pad" and (change is None or not change.dropped):
                windows.append(window if change is None else change.after)
        return windows


def follow_image(recording: Recording, limit: int | None) -> Flow:
    """Find what has to change for no value to be coarser than a limit.

    Args:
        recording: one run of the model, with everything open that holds a convolution or a pool.
        limit: the coarsest reduction to keep; None keeps all strides.

    Raises:
        RequestError: at a node behind a removed stride that has no dense counterpart.
    """
    return _Follower(recording, limit).run()


class _Follower:
    def __init__(self, recording: Recording, limit: int | None) -> None:
        self.recording, self.limit = recording, limit
        self.grids: dict[fx.Node, Grid] = {}
        self.hidden: dict[fx.Node, Grid] = {}
        self.forgotten: set[fx.Node] = set()
        self.fixed: set[fx.Node] = set()
        self.changes: list[Change] = []
        self.reductions: set[int] = set()
        self.batch = self.rank = 0

    def run(self) -> Flow:
        for node in self.recording.graph.nodes:
            if node.op != "placeholder" and self.fixed.issuperset(node.all_input_nodes):
                self.fixed.add(node)
            value = first_tensor(meta_of(node).value)
            if value is not None:
                self._place(node, value.shape)
        changes = treat_side_branches(self.recording, self.changes)
        return Flow(self.recording, self.grids, changes, tuple(sorted(self.reductions)))

    def _place(self, node: fx.Node, shape: Axes) -> None:
        sources = [self.grids[source] for source in node.all_input_nodes if source in self.grids]
        # What is on its way from one shape to another counts only where nothing else tells the positions.
        sources = sources or [self.hidden[source] for source in node.all_input_nodes if source in self.hidden]
        if not sources:
            self._start(node, shape)
            return
        grid = max(sources, key=lambda grid: (grid.is_shown_by(shape), grid.rate, grid.sizes))
        window = read_window(self.recording, node)
        if window is not None and window.kind == "pad":
            self._place_pad(node, window, grid, shape)
        elif is_computed_pad(node):
            self.grids[node] = padded(grid, node, shape)
        elif window is not None:
            self._place_window(node, window, shape)
        elif is_slice(node):
            self._place_slice(node, grid, shape)
        else:
            self._place_other(node, grid, shape)

    # -- windows ----------------------------------------------------------------------------------------------------

    def _place_window(self, node: fx.Node, window: Window, shape: Axes) -> None:
        source: Any = node.args[0] if node.args else node.kwargs["input"]
        grid = self.grids.get(source)
        rank = len(window.kernel)
        # A convolution on what a global pool left has no positions to keep.
        if grid is None or grid.sizes != shape_of(source)[-rank:]:
            self._check_lost(node, window, source)
            return
        kept = self._kept(window.stride, grid)
        computed = is_computed_pad(source)
        after = densify(window, kept, grid.rate, fixed_pads=computed)
        if after != window:
            refuse_window(self.recording, node, window)
            self.changes.append(Change(node, window, after, computed=computed))
        self._reduce(node, strided(grid, window.stride, kept, shape[-rank:]))

    def _check_lost(self, node: fx.Node, window: Window, source: Any) -> None:
        """Refuse a window on a map whose place on the image is not known, unless it pools to a fixed size before."""
        # A convolution along channels, as efficient channel attention has it, slides over no positions.
        slides = len(window.kernel) == self.rank and (max(window.kernel) > 1 or max(window.stride) > 1)
        sizes = shape_of(source)[-len(window.kernel) :]
        if self.limit is not None and slides and max(sizes) > 1 and source not in self.forgotten:
            refuse(self.recording, node, "how its input lies on the image cannot be told from the shapes")

    def _kept(self, stride: Axes, grid: Grid) -> Axes:
        """Say how much of a stride stays under the limit."""
        return tuple(self._kept_along(*axis) for axis in zip(stride, grid.density, strict=True))

    def _kept_along(self, stride: int, density: int) -> int:
        if self.limit is None:
            return stride
        parts = (part for part in range(stride, 1, -1) if stride % part == 0)
        return next((part for part in parts if density * part <= self.limit), 1)

    def _place_pad(self, node: fx.Node, window: Window, grid: Grid, shape: Axes) -> None:
        rank = len(grid.sizes)
        start = grid.first_axis(shape_of(node.all_input_nodes[0]))
        if start < 0:
            self._place_other(node, grid, shape)
            return
        pads = tuple((b * r, a * r) for (b, a), r in zip(window.pads[-rank:], grid.rate, strict=False))
        after = dataclasses.replace(window, pads=(*window.pads[:-rank], *pads))
        if after != window and start != len(shape) - rank:
            refuse(self.recording, node, "it pads maps whose channels come last")
        if after != window:
            self.changes.append(Change(node, window, after))
        self.grids[node] = padded(grid, node, shape)

    def _start(self, node: fx.Node, shape: Axes) -> None:
        """Place an input; and mind what has lost its positions on the way."""
        if is_image(node, shape):
            self.batch, self.rank = shape[0], len(shape) - 2
            self.grids[node] = image(shape[2:])
        if not self.forgotten.isdisjoint(node.all_input_nodes):
            self.forgotten.add(node)

    # -- slices -----------------------------------------------------------------------------------------------------

    def _place_slice(self, node: fx.Node, grid: Grid, shape: Axes) -> None:
        steps = steps_of(node, grid)
        if steps is None:
            self._place_other(node, grid, shape)
            return
        kept = self._kept(steps, grid)
        if kept != steps:
            if any(start for start in starts_of(node)):
                refuse_loss(self.recording, node, "it takes one of several shifted maps")
            window = Window("slice", (1,) * len(steps), steps, ((0, 0),) * len(steps), (1,) * len(steps))
            self.changes.append(Change(node, window, densify(window, kept, grid.rate)))
        start = grid.first_axis(shape_of(node.all_input_nodes[0]))
        sizes = tuple(shape[start : start + len(steps)])
        self._reduce(node, strided(grid, steps, kept, sizes))

    # -- everything else --------------------------------------------------------------------------------------------

    def _place_other(self, node: fx.Node, grid: Grid, shape: Axes) -> None:
        if grid.is_dense:
            refuse_fixed_size(self.recording, node, grid, shape, self.fixed, self.batch)
        if forgets_positions(self.recording, node):
            self.forgotten.add(node)
            return
        factors, sizes = shrunk_by(grid, shape, self.batch), grown_to(self.recording, node, grid, shape)
        if sizes is not None and grid.is_dense:
            self._place_resized(node, grid, shape)
        elif sizes is not None:
            self.grids[node] = refined(grid, sizes)
        elif grid.is_shown_by(shape):
            self.grids[node] = grid
        elif factors is not None:
            self._place_shrunk(node, grid, factors)
        elif crops(node) and len(shape) == len(shape_of(node.all_input_nodes[0])):
            self._place_crop(node, grid, shape)
        elif math.prod(shape) % (grid.tokens * self.batch) == 0:
            self.hidden[node] = grid

    def _place_crop(self, node: fx.Node, grid: Grid, shape: Axes) -> None:
        start = grid.first_axis(shape_of(node.all_input_nodes[0]))
        if grid.is_dense:
            refuse(self.recording, node, "it cuts off a fixed number of positions")
        if start > 0:
            self.grids[node] = dataclasses.replace(grid, sizes=tuple(shape[start : start + len(grid.sizes)]))

    def _place_shrunk(self, node: fx.Node, grid: Grid, factors: Axes) -> None:
        kept = self._kept(factors, grid)
        if kept != factors:
            refuse_loss(self.recording, node, "it makes the map smaller in another way than by a stride")
        sizes = tuple(size // factor for size, factor in zip(grid.sizes, factors, strict=True))
        self._reduce(node, strided(grid, factors, kept, sizes))

    def _reduce(self, node: fx.Node, grid: Grid) -> None:
        self.grids[node] = grid
        self.reductions.add(max(grid.reduction))

    def _place_resized(self, node: fx.Node, grid: Grid, shape: Axes) -> None:
        """Place what is resized to the size of another value, which is known when it runs."""
        size = node.kwargs.get("size") or (node.args[1] if len(node.args) > 1 else None)
        if not nodes_in(size):
            refuse_growth(self.recording, node)
        sizes = tuple(shape[-len(grid.sizes) :])
        reduction = tuple(
            max(1, round(r * old / new)) for r, old, new in zip(grid.reduction, grid.sizes, sizes, strict=True)
        )
        density = tuple(min(r, self.limit or r) for r in reduction)
        rate = tuple(r // d for r, d in zip(reduction, density, strict=True))
        self.grids[node] = Grid(sizes, density, rate)
