"""Compare the values of a dense model, as it runs, with those of the strided one."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import tensors
from fxfeat.stride.grid import Grid
from fxfeat.stride.lattice import Lattice, find_lattice
from fxfeat.stride.node_keys import Key, key_nodes

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""The largest difference that counts as none, as a part of the largest value.

Torch adds the products of a dilated convolution up in another order than those of a strided one.
"""


class Comparison:
    """Compares as the dense model runs, and puts the original's value in where an operation breaks.

    Args:
        original: the values of the original.
        recording: of the dense model.
        ours: where the values of the dense model lie on the image.
        theirs: where those of the original do.
    """

    def __init__(
        self,
        original: dict[Key, list[torch.Tensor]],
        recording: Recording,
        ours: dict[Key, Grid],
        theirs: dict[Key, Grid],
    ) -> None:
        self.original, self.keys = original, key_nodes(recording)
        self.ours, self.theirs = ours, theirs
        self.broken: dict[fx.Node, float | None] = {}
        self.denser: set[fx.Node] = set()
        self.offsets: dict[fx.Node, tuple[int, ...]] = {}
        self.compared = 0
        self.worst = 0.0
        self.last: tuple[int, ...] = ()

    def is_inside(self, node: fx.Node) -> bool:
        """Say whether a denser map depends on a node, or is its value."""
        return not self.denser.isdisjoint(_behind(node))

    def visit(self, node: fx.Node, value: Any) -> Any:
        """Compare the value of a node with the original's, and return what to go on with."""
        if node.op in ("placeholder", "get_attr") or _pads_zeros(node):
            return value
        dense = [tensor for _, tensor in tensors(value) if tensor.is_floating_point()]
        original = self.original.get(self.keys[node], [])
        if len(dense) != len(original):
            return value
        for ours, theirs in zip(dense, original, strict=True):
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
        inherited = max((self.offsets.get(source, ()) for source in node.all_input_nodes), default=())
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
