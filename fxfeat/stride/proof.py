"""Prove that a model with a limited stride holds the original's maps: subsampled, they are the same."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from fxfeat.ir.example import Example
from fxfeat.ir.recording import Recording
from fxfeat.ir.shown import Shown, describe
from fxfeat.ir.tree import is_structure, map_parts, tensors
from fxfeat.stride.comparison import Comparison
from fxfeat.stride.grid import Grid
from fxfeat.stride.image_flow import follow_image
from fxfeat.stride.limit import limit_stride
from fxfeat.stride.node_keys import Key, key_nodes
from fxfeat.stride.reasons import explain
from fxfeat.stride.recordings import record_dense, record_windows
from fxfeat.trace.setup import read_setup
from fxfeat.vision.example_arguments import as_example_inputs
from fxfeat.vision.replay import replay
from fxfeat.vision.value_names import name_operation


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
class Proof(Shown):
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
        return not any(broken.inside for broken in self.breaks)

    def __str__(self) -> str:
        return describe(self)


def prove(model: nn.Module, output_stride: int, *, example_inputs: Any = None) -> Proof:
    """Compare every value of a model with that of the model with a limited stride, in eval mode and float64.

    With symmetric windows, the dense map at every ``k``-th position, ``[..., ::k, ::k]``, is the strided map. What
    looks at all positions at once, such as the global pool of squeeze-and-excite, sees more of them in a dense map: it
    is listed, and the comparison goes on behind it with the value of the original.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.GroupNorm(2, 8))
        >>> proof = prove(model, 2, example_inputs=torch.rand(1, 3, 32, 32))
        >>> proof.ok, proof.compared, proof.dense, [broken.name for broken in proof.breaks]
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
    changed = limit_stride(exact, output_stride, example_inputs=as_example_inputs(example))
    dense = record_dense(changed, setup, False)
    with torch.no_grad():
        original = _copy_values(strided, example)
        comparison = Comparison(original, dense, _places(dense), _places(strided))
        replay(dense, example, comparison.visit)
    return _conclude(comparison, dense, output_stride)


def _conclude(comparison: Comparison, dense: Recording, output_stride: int) -> Proof:
    breaks = tuple(
        Break(name_operation(dense, node), explain(dense, node), difference, comparison.is_inside(node))
        for node, difference in comparison.broken.items()
    )
    return Proof(output_stride, comparison.compared, len(comparison.denser), breaks, comparison.worst, comparison.last)


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


def _copy_values(recording: Recording, example: Example) -> dict[Key, list[torch.Tensor]]:
    """Run the original and keep a copy of every value."""
    keys = key_nodes(recording)
    copies: dict[Key, list[torch.Tensor]] = {}

    def keep(node: fx.Node, value: Any) -> Any:
        copies[keys[node]] = [tensor.detach().clone() for _, tensor in tensors(value) if tensor.is_floating_point()]
        return value

    replay(recording, example, keep)
    return copies
