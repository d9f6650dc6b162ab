"""Follow the image through a recording and find every window that loses its stride or is dilated."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import fx

from fxfeat.record.recording import Recording, TensorFacts, facts
from fxfeat.record.written import nodes_in
from fxfeat.stride.branches import Branches, Treatment
from fxfeat.stride.grid import Axes, Grid
from fxfeat.stride.refusals import refuse, refuse_fixed_size, refuse_growth, refuse_loss, refuse_window
from fxfeat.stride.windows import Window, arguments_of, densify, even_pads, read_window


@dataclass(frozen=True)
class Change:
    """A node whose window is to be another one.

    ``dropped`` marks one that is to return its input, ``computed`` one before which the model pads by what it works
    out from the stride.
    """

    node: fx.Node
    before: Window
    after: Window
    dropped: bool = False
    computed: bool = False

    def agrees(self, other: Change) -> bool:
        """Say whether another call is to change in the same way."""
        return (self.before, self.after, self.dropped) == (other.before, other.after, other.dropped)


@dataclass(frozen=True)
class Flow:
    """What a limit means for one recording: where each value lies, and what is to change."""

    recording: Recording
    grids: dict[fx.Node, Grid]
    changes: tuple[Change, ...]

    @property
    def reductions(self) -> tuple[int, ...]:
        """The reductions of what convolutions and pools return, in the recorded model."""
        found = {max(grid.reduction) for node, grid in self.grids.items() if node.op != "placeholder"}
        return tuple(sorted(found))

    @property
    def planned(self) -> list[Window]:
        """The windows of the changed model, in the order in which they run."""
        known = {change.node: change for change in self.changes}
        found = []
        for node in self.recording.graph.nodes:
            window = read_window(self.recording, node)
            if window is not None and window.kind != "pad" and not (node in known and known[node].dropped):
                found.append(known[node].after if node in known else window)
        return found


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
        self.batch = 0

    def run(self) -> Flow:
        for node in self.recording.graph.nodes:
            if node.op != "placeholder" and all(held in self.fixed for held in node.all_input_nodes):
                self.fixed.add(node)
            value = _first_tensor(facts(node).value)
            if value is not None:
                self._place(node, value.shape)
        changes = _treat_side_branches(self.recording, self.changes)
        return Flow(self.recording, self.grids, changes)

    def _place(self, node: fx.Node, shape: Axes) -> None:
        sources = [self.grids[held] for held in node.all_input_nodes if held in self.grids]
        # What is on its way from one shape to another counts only where nothing else tells the positions.
        sources = sources or [self.hidden[held] for held in node.all_input_nodes if held in self.hidden]
        if not sources:
            self._start(node, shape)
            return
        grid = max(sources, key=lambda held: (held.is_shown_by(shape), held.rate, held.sizes))
        window = read_window(self.recording, node)
        if window is not None and window.kind == "pad":
            self._place_pad(node, window, grid, shape)
        elif _is_computed_pad(node):
            self.grids[node] = _padded(grid, node, shape)
        elif window is not None:
            self._place_window(node, window, shape)
        elif is_slice(node):
            self._place_slice(node, grid, shape)
        else:
            self._place_other(node, grid, shape)

    # -- windows ----------------------------------------------------------------------------------------------------

    def _place_window(self, node: fx.Node, window: Window, shape: Axes) -> None:
        source = node.args[0] if node.args else node.kwargs["input"]
        grid = self.grids.get(source) if isinstance(source, fx.Node) else None
        rank = len(window.kernel)
        # A convolution on what a global pool left has no positions to keep.
        if grid is None or grid.sizes != tuple(facts(source).value.shape[-rank:]):  # type: ignore[arg-type]
            self._check_lost(node, window, source)
            return
        kept = self._kept(window.stride, grid)
        computed = _is_computed_pad(source)
        after = densify(window, kept, grid.rate, fixed_pads=computed)
        if after != window:
            refuse_window(self.recording, node, window)
            self.changes.append(Change(node, window, after, computed=computed))
        self.grids[node] = _strided(grid, window.stride, kept, shape[-rank:])

    def _check_lost(self, node: fx.Node, window: Window, source: Any) -> None:
        """Refuse a window on a map whose place on the image is not known, unless it pools to a fixed size before."""
        slides = max(window.kernel) > 1 or max(window.stride) > 1
        sizes = facts(source).value.shape[-len(window.kernel) :]
        if self.limit is not None and slides and max(sizes) > 1 and source not in self.forgotten:
            refuse(self.recording, node, "how its input lies on the image cannot be told from the shapes")

    def _kept(self, stride: Axes, grid: Grid) -> Axes:
        """Say how much of a stride stays under the limit."""
        return tuple(self._kept_along(*axis) for axis in zip(stride, grid.density, strict=True))

    def _kept_along(self, stride: int, density: int) -> int:
        if self.limit is None:
            return stride
        return max(
            kept for kept in range(1, stride + 1) if stride % kept == 0 and (kept == 1 or density * kept <= self.limit)
        )

    def _place_pad(self, node: fx.Node, window: Window, grid: Grid, shape: Axes) -> None:
        rank = len(grid.sizes)
        last = _first_axis(facts(node.all_input_nodes[0]).value.shape, grid) == len(shape) - rank
        pads = tuple((b * r, a * r) for (b, a), r in zip(window.pads[-rank:], grid.rate, strict=False))
        after = dataclasses.replace(window, pads=(*window.pads[:-rank], *pads))
        if after != window and not last:
            refuse(self.recording, node, "it pads maps whose channels come last")
        if after != window:
            self.changes.append(Change(node, window, after))
        self.grids[node] = _padded(grid, node, shape)

    def _start(self, node: fx.Node, shape: Axes) -> None:
        """Place an input; and mind what has lost its positions on the way."""
        if _is_image(node, shape):
            self.batch = shape[0]
            self.grids[node] = _image(shape[2:])
        if any(held in self.forgotten for held in node.all_input_nodes):
            self.forgotten.add(node)

    # -- slices -----------------------------------------------------------------------------------------------------

    def _place_slice(self, node: fx.Node, grid: Grid, shape: Axes) -> None:
        steps = _steps_of(node, grid)
        if steps is None:
            self._place_other(node, grid, shape)
            return
        kept = self._kept(steps, grid)
        if kept != steps:
            if any(start for start in _starts_of(node)):
                refuse_loss(self.recording, node, "it takes every other position of several shifted maps apart")
            window = Window("slice", (1,) * len(steps), steps, ((0, 0),) * len(steps), (1,) * len(steps))
            self.changes.append(Change(node, window, densify(window, kept, grid.rate)))
        start = _first_axis(facts(node.all_input_nodes[0]).value.shape, grid)
        sizes = tuple(shape[start : start + len(steps)])
        self.grids[node] = _strided(grid, steps, kept, sizes)

    # -- everything else --------------------------------------------------------------------------------------------

    def _place_other(self, node: fx.Node, grid: Grid, shape: Axes) -> None:
        if grid.is_dense:
            refuse_fixed_size(self.recording, node, grid, shape, self.fixed, self.batch)
        if _forgets_positions(self.recording, node):
            self.forgotten.add(node)
            return
        factors, sizes = _shrunk_by(grid, shape, self.batch), _grown_to(self.recording, node, grid, shape)
        if grid.is_shown_by(shape):
            self.grids[node] = grid
        elif factors is not None:
            self._place_shrunk(node, grid, factors)
        elif sizes is not None and grid.is_dense:
            self._place_resized(node, grid, shape)
        elif sizes is not None:
            self.grids[node] = _refined(grid, sizes)
        elif math.prod(shape) % (grid.tokens * self.batch) == 0:
            self.hidden[node] = grid
        else:
            self.forgotten.add(node)

    def _place_shrunk(self, node: fx.Node, grid: Grid, factors: Axes) -> None:
        kept = self._kept(factors, grid)
        if kept != factors:
            refuse_loss(self.recording, node, "it moves positions into channels")
        self.grids[node] = _strided(
            grid, factors, kept, tuple(s // f for s, f in zip(grid.sizes, factors, strict=True))
        )

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


def _first_tensor(value: object) -> TensorFacts | None:
    """Return what is known of a tensor, or of the first part of one that was split."""
    if isinstance(value, (tuple, list)) and value:
        return _first_tensor(value[0])
    return value if isinstance(value, TensorFacts) else None


def _is_image(node: fx.Node, shape: Axes) -> bool:
    """Say whether a value is, or was picked from, an input that has positions."""
    held = node
    while held.op == "call_function" and held.target in (operator.getitem, getattr) and held.all_input_nodes:
        held = held.all_input_nodes[0]
    whole = held is node or not _is_tensor(held)
    return held.op == "placeholder" and len(shape) >= 3 and whole and _is_tensor(node)


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(facts(node).value, TensorFacts)


def _image(sizes: Axes) -> Grid:
    ones = (1,) * len(sizes)
    return Grid(tuple(sizes), ones, ones)


def _padded(grid: Grid, node: fx.Node, shape: Axes) -> Grid:
    """Place a padded map, whose channels may come first or last."""
    start = _first_axis(facts(node.all_input_nodes[0]).value.shape, grid)
    return Grid(tuple(shape[start : start + len(grid.sizes)]), grid.density, grid.rate)


def _strided(grid: Grid, stride: Axes, kept: Axes, sizes: Axes) -> Grid:
    density = tuple(d * k for d, k in zip(grid.density, kept, strict=True))
    rate = tuple(r * s // k for r, s, k in zip(grid.rate, stride, kept, strict=True))
    return Grid(tuple(sizes), density, rate)


def _forgets_positions(recording: Recording, node: fx.Node) -> bool:
    """Say whether a node pools to a size that does not depend on its input's."""
    return called(recording, node).startswith("adaptive")


def called(recording: Recording, node: fx.Node) -> str:
    """Spell what a node calls without underscores and capitals, so that layers and functions are alike.

    A layer is ``AdaptiveAvgPool2d``, the function ``adaptive_avg_pool2d``.
    """
    if node.op == "call_module":
        name = type(recording.root.get_submodule(str(node.target))).__name__
    else:
        name = getattr(node.target, "__name__", str(node.target))
    return name.lower().replace("_", "")


def _shrunk_by(grid: Grid, shape: Axes, batch: int) -> Axes | None:
    """Say by which whole factor a value shrank in a way that is no window, such as patch merging."""
    rank = len(grid.sizes)
    if len(shape) != rank + 2 or shape[0] != batch:
        return None
    for start in (2, 1):
        pairs = list(zip(grid.sizes, shape[start : start + rank], strict=True))
        factors = {old // new for old, new in pairs if new > 1 and old % new == 0}
        if len(factors) == 1 and all(new > 1 and old % new == 0 for old, new in pairs):
            return (factors.pop(),) * rank
    return None


_GROWS = ("interpolate", "upsamp", "convtranspose", "pixelshuffle", "maxunpool", "gridsample")


def _grown_to(recording: Recording, node: fx.Node, grid: Grid, shape: Axes) -> Axes | None:
    """Return the sizes that an upsampling leads to."""
    rank = len(grid.sizes)
    if not called(recording, node).startswith(_GROWS) or len(shape) != rank + 2:
        return None
    return tuple(shape[-rank:])


def _refined(grid: Grid, sizes: Axes) -> Grid:
    pairs = zip(grid.density, grid.sizes, sizes, strict=True)
    return Grid(tuple(sizes), tuple(max(1, round(d * old / new)) for d, old, new in pairs), grid.rate)


def _is_computed_pad(node: object) -> bool:
    """Say whether a node pads by amounts that the model works out from a size, a stride and a dilation."""
    if not isinstance(node, fx.Node) or node.target is not F.pad:
        return False
    return bool(nodes_in(arguments_of(node, "pad")["pad"]))


def is_slice(node: fx.Node) -> bool:
    """Say whether a node takes every n-th element along some axis."""
    return node.target is operator.getitem and any(slice_.step not in (None, 1) for slice_ in _slices_of(node))


def _slices_of(node: fx.Node) -> Iterator[slice]:
    index = node.args[1]
    for held in index if isinstance(index, tuple) else (index,):
        if isinstance(held, slice):
            yield held


def _starts_of(node: fx.Node) -> list[int]:
    return [held.start for held in _slices_of(node) if held.step not in (None, 1) and held.start]


def _steps_of(node: fx.Node, grid: Grid) -> Axes | None:
    """Read the step along each spatial axis of a slice, None where it picks in another way."""
    shape = facts(node.all_input_nodes[0]).value.shape
    index = list(node.args[1]) if isinstance(node.args[1], tuple) else [node.args[1]]
    if Ellipsis in index:
        at = index.index(Ellipsis)
        index[at : at + 1] = [slice(None)] * (len(shape) - len(index) + 1)
    index += [slice(None)] * (len(shape) - len(index))
    if len(index) != len(shape) or not all(isinstance(held, slice) for held in index):
        return None
    start = _first_axis(shape, grid)
    if start < 0:
        return None
    steps = tuple(held.step or 1 for held in index)
    inside = steps[start : start + len(grid.sizes)]
    outside = steps[:start] + steps[start + len(grid.sizes) :]
    return inside if all(step == 1 for step in outside) and all(isinstance(step, int) for step in inside) else None


def _first_axis(shape: Axes, grid: Grid) -> int:
    rank = len(grid.sizes)
    starts = (start for start in range(len(shape) - rank, 0, -1) if tuple(shape[start : start + rank]) == grid.sizes)
    return next(starts, -1)


def _treat_side_branches(recording: Recording, changes: list[Change]) -> tuple[Change, ...]:
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
