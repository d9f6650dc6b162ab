"""Prove that a model with a limited stride holds the original's maps: subsampled, they are the same."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxfeat.ir.example import Example
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import is_structure, map_parts, tensors
from fxfeat.stride.grid import Grid
from fxfeat.stride.image_flow import follow_image
from fxfeat.stride.lattice import Lattice, find_lattice
from fxfeat.stride.limit import limit_stride
from fxfeat.stride.reasons import explain
from fxfeat.stride.recordings import record_dense, record_windows
from fxfeat.stride.refusals import name_of
from fxfeat.stride.replay import Key, key_nodes, replay
from fxfeat.trace.setup import read_setup

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""The largest difference that counts as none, as a part of the largest value.

Torch adds the products of a dilated convolution up in another order than those of a strided one.
"""


@dataclass(frozen=True)
class Break:
    """An operation whose dense value, subsampled, is not the strided one, though its inputs were the same.

    ``inside`` tells one that denser maps depend on, such as squeeze-and-excite, from one behind them all, such as the
    pool of the head.
    """

    name: str
    reason: str
    max_abs_diff: float | None
    inside: bool = True


@dataclass(frozen=True)
class Proof:
    """How the values of a model compare with those of the model with a limited stride.

    ``compared`` values were compared, ``dense`` of them at a finer resolution, and ``breaks`` lists the operations that
    make a difference. Behind each of them the comparison went on with the original's values. ``offset`` is the position
    (per spatial axis) of the original's first value in the coarsest map: 0 unless padding is unequal.
    """

    output_stride: int
    compared: int
    dense: int
    breaks: tuple[Break, ...]
    max_abs_diff: float
    offset: tuple[int, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every denser map, subsampled, is the original's."""
        return not any(held.inside for held in self.breaks)


def prove(model: nn.Module, output_stride: int, *, example_inputs: Any = None) -> Proof:
    """Compare every value of a model with that of the model with a limited stride, in eval mode and float64.

    With symmetric windows, the dense map at every ``k``-th position, ``[..., ::k, ::k]``, is the strided map. What
    looks at all positions at once, such as the global pool of squeeze-and-excite, sees more of them in a dense map: it
    is listed, and the comparison goes on behind it with the value of the original.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.GroupNorm(2, 8))
        >>> proof = prove(model, 2, example_inputs=torch.rand(1, 3, 32, 32))
        >>> proof.ok, proof.compared, proof.dense, [held.name for held in proof.breaks]
        (False, 3, 2, ['2'])

    Args:
        model: any module that takes images; it is not changed.
        output_stride: as for ``limit_stride``.
        example_inputs: as for ``limit_stride``; image sizes should be multiples of the model's largest reduction.
            Random values are put in place of the given ones.

    Returns:
        A ``Proof`` with ``.ok`` and ``.breaks``; prints as a table.

    Raises:
        RequestError: as for ``limit_stride``.
        TraceError: as for ``limit_stride``.

    Source: Chen et al. 2017, "Rethinking Atrous Convolution for Semantic Image Segmentation", section 3.1.
    """
    exact = copy.deepcopy(model).eval().double()
    setup = read_setup(exact, None, None, example_inputs)
    setup.examples = tuple(_random(example) for example in setup.examples)
    strided = record_windows(setup, False)
    example = setup.examples[0]
    changed = limit_stride(exact, output_stride, example_inputs=_as_given(example))
    dense = record_dense(changed, setup, False)
    with torch.no_grad():
        seen = _see(strided, example)
        comparison = _Comparison(seen, _places(strided), dense)
        replay(dense, example, comparison.visit)
    return comparison.conclude(output_stride)


def _places(recording: Recording) -> dict[Key, Grid]:
    """Say where the values of a recording lie on the image."""
    grids, keys = follow_image(recording, None).grids, key_nodes(recording)
    return {keys[node]: grid for node, grid in grids.items()}


def _random(example: Example) -> Example:
    generator = torch.Generator().manual_seed(0)

    def draw(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return torch.rand(value.shape, generator=generator, dtype=torch.float64)
        return value

    return Example(*map_parts((example.args, example.kwargs), draw, is_structure))


def _as_given(example: Example) -> Any:
    return example.args if not example.kwargs else dict(example.kwargs)


def _see(recording: Recording, example: Example) -> dict[Key, list[torch.Tensor]]:
    """Run the original and keep a copy of every value."""
    keys = key_nodes(recording)
    seen: dict[Key, list[torch.Tensor]] = {}

    def keep(node: fx.Node, value: Any) -> Any:
        seen[keys[node]] = [held.detach().clone() for _, held in tensors(value) if held.is_floating_point()]
        return value

    replay(recording, example, keep)
    return seen


class _Comparison:
    """Compares as the dense model runs, and puts the original's value in where an operation breaks."""

    def __init__(self, seen: dict[Key, list[torch.Tensor]], places: dict[Key, Grid], recording: Recording) -> None:
        self.seen, self.recording = seen, recording
        self.keys = key_nodes(recording)
        self.ours, self.theirs = _places(recording), places
        self.broken: dict[fx.Node, float | None] = {}
        self.denser: set[fx.Node] = set()
        self.offsets: dict[fx.Node, tuple[int, ...]] = {}
        self.compared = 0
        self.worst = 0.0
        self.last: tuple[int, ...] = ()

    def visit(self, node: fx.Node, value: Any) -> Any:
        if node.op in ("placeholder", "get_attr") or _pads_zeros(node):
            return value
        held = [tensor for _, tensor in tensors(value) if tensor.is_floating_point()]
        known = self.seen.get(self.keys[node], [])
        if len(held) != len(known) or not held:
            return value
        for ours, theirs in zip(held, known, strict=True):
            self._compare(node, ours, theirs)
        return value

    def _compare(self, node: fx.Node, ours: torch.Tensor, theirs: torch.Tensor) -> None:
        key = self.keys[node]
        lattice = find_lattice(tuple(ours.shape), tuple(theirs.shape), self.ours.get(key), self.theirs.get(key))
        self.compared += 1
        if lattice is None:
            self.broken[node] = None
            return
        if ours.shape != theirs.shape:
            self.denser.add(node)
        difference = self._smallest_difference(node, ours, theirs, lattice)
        if difference <= _bound(theirs):
            self.worst = max(self.worst, difference)
            return
        self.broken[node] = difference
        if any(step == 0 and size > 1 for step, size in zip(ours.stride(), ours.shape, strict=True)):
            # An expanded value cannot be written to; what is behind it is compared without the original's.
            return
        ours[lattice.index(tuple(ours.shape), tuple(theirs.shape), self.offsets[node])] = theirs

    def _smallest_difference(self, node: fx.Node, ours: torch.Tensor, theirs: torch.Tensor, lattice: Lattice) -> float:
        """Try the offset of the inputs first; unequal padding moves it."""
        axes = len(lattice.spread)
        inherited = max((self.offsets.get(held, ()) for held in node.all_input_nodes), default=())
        inherited = inherited if len(inherited) == axes else (0,) * axes
        self.offsets[node] = inherited
        smallest = float("inf")
        for offset in itertools.chain([inherited], lattice.offsets()):
            picked = ours[lattice.index(tuple(ours.shape), tuple(theirs.shape), offset)]
            difference = _difference(picked, theirs) if picked.shape == theirs.shape else float("inf")
            smallest = min(smallest, difference)
            if difference <= _bound(theirs):
                self.offsets[node] = offset
                self.last = offset if axes else self.last
                return difference
        return smallest

    def conclude(self, output_stride: int) -> Proof:
        breaks = tuple(self._break(node, difference) for node, difference in self.broken.items())
        return Proof(output_stride, self.compared, len(self.denser), breaks, self.worst, self.last)

    def _break(self, node: fx.Node, difference: float | None) -> Break:
        name, reason = name_of(self.recording, node), explain(self.recording, node)
        return Break(name, reason, difference, not self.denser.isdisjoint(_behind(node)))


def _pads_zeros(node: fx.Node) -> bool:
    """Say whether a node pads by constants, which is no result of its own: the window behind it is compared."""
    return bool(node.target is F.pad and node.kwargs.get("mode", "constant") == "constant")


def _behind(node: fx.Node) -> set[fx.Node]:
    """List a node and everything that is computed from it."""
    waiting, seen = [node], {node}
    while waiting:
        fresh = set(waiting.pop().users) - seen
        seen |= fresh
        waiting += fresh
    return seen


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    if not theirs.numel() or torch.equal(ours, theirs):
        return 0.0
    difference = (ours - theirs).abs()
    return float(difference[~((ours == theirs) | (ours.isnan() & theirs.isnan()))].max())


def _bound(theirs: torch.Tensor) -> float:
    finite = theirs[theirs.isfinite()]
    return _TOLERANCE.get(theirs.dtype, 1e-2) * max(float(finite.abs().max()) if finite.numel() else 0.0, 1e-30)
