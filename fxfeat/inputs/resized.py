"""The same example at other sizes or another dtype, to see what a recording depends on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass

import torch

from fxfeat.ir.example import Example
from fxfeat.ir.tree import Steps, is_plain, replace_at, spell, tensors, walk

_MOST_CHANNELS = 4
_FEW = 32


@dataclass(frozen=True)
class Axis:
    """One dimension of one input tensor."""

    steps: Steps
    dimension: int
    size: int


@dataclass(frozen=True)
class Group:
    """Axes that change together: the batch, the extent of images, clips or sequences, or what else is of one size."""

    name: str
    axes: tuple[Axis, ...]


def find_groups(example: Example) -> tuple[Group, ...]:
    """Sort the axes of an example's tensors into the batch, the extent, and others one by one, such as channels.

    A tensor of one dimension, as long as the batch, is taken to hold a number for each of its rows.

    >>> [(g.name, [a.dimension for a in g.axes]) for g in find_groups(Example((torch.zeros(2, 3, 8, 8),)))]
    [('batch', [0]), ('extent', [2, 3]), ('size 1 of [0][0]', [1])]
    """
    given = list(tensors((example.args, example.kwargs)))
    listed = _is_listed(example)
    batch = () if listed else tuple(Axis(steps, 0, t.shape[0]) for steps, t in given if t.dim() > 1)
    if len(sizes := {axis.size for axis in batch}) == 1:
        batch += tuple(Axis(steps, 0, t.shape[0]) for steps, t in given if t.dim() == 1 and t.shape[0] in sizes)
    extent = tuple(Axis(steps, d, t.shape[d]) for steps, t in given for d in _extent_of(t, listed))
    lengths = (Group(f"length {d}", tuple(Axis(s, d, t.shape[d]) for s, t in given if d < t.dim() < 4)) for d in (1, 2))
    grouped = {(axis.steps, axis.dimension) for axis in (*batch, *extent)}
    others = (
        Group(f"size {d} of {spell(steps)}", (Axis(steps, d, t.shape[d]),))
        for steps, t in given
        if t.dim() >= 4 or t.dim() == 1 or listed
        for d in range(t.dim())
        if (steps, d) not in grouped
    )
    groups = (Group("batch", batch), Group("extent", extent), *(() if listed else lengths), *others)
    return tuple(group for group in groups if group.axes)


def _is_listed(example: Example) -> bool:
    """Say whether inputs are lists of single images, which have no batch axis."""
    return any(isinstance(value, list) for value in (*example.args, *example.kwargs.values()))


def _extent_of(tensor: torch.Tensor, listed: bool) -> list[int]:
    if listed:
        return [1, 2] if tensor.dim() == 3 else []
    if tensor.dim() >= 4:
        return [d for d in range(2, tensor.dim()) if tensor.shape[d] > _MOST_CHANNELS]
    return []


def resize(example: Example, sizes: Mapping[Axis, int]) -> Example:
    """Return an example some axes of which have other sizes; its tensors have no values until it is filled.

    >>> larger = resize(Example((torch.ones(2),)), {Axis((("item", 0), ("item", 0)), 0, 2): 4})
    >>> larger.fill().args
    (tensor([1., 1., 1., 1.]),)
    """
    return dataclasses.replace(_resize(example, sizes, _make_room), fill=lambda: _resize(example, sizes, _repeat))


def _resize(
    example: Example, sizes: Mapping[Axis, int], make: Callable[[torch.Tensor, tuple[int, ...]], torch.Tensor]
) -> Example:
    wanted_at = {(axis.steps, axis.dimension): size for axis, size in sizes.items()}
    resized: dict[tuple[int, tuple[int, ...]], torch.Tensor] = {}

    def change(steps: Steps, tensor: torch.Tensor) -> torch.Tensor:
        wanted = tuple(wanted_at.get((steps, dimension), size) for dimension, size in enumerate(tensor.shape))
        # A tensor that comes twice is one tensor at other sizes too.
        if (id(tensor), wanted) not in resized:
            resized[id(tensor), wanted] = make(tensor, wanted)
        return resized[id(tensor), wanted]

    return _changed(example, change)


def cast(example: Example, dtypes: Mapping[torch.dtype, torch.dtype]) -> Example:
    """Return an example whose tensors have other dtypes in place of some."""
    casts: dict[int, torch.Tensor] = {}

    def change(steps: Steps, tensor: torch.Tensor) -> torch.Tensor:
        return casts.setdefault(id(tensor), tensor.to(dtypes.get(tensor.dtype, tensor.dtype)))

    return _changed(example, change)


def _changed(example: Example, change: Callable[[Steps, torch.Tensor], torch.Tensor]) -> Example:
    given = (example.args, example.kwargs)
    for steps, part in walk(given, (), is_plain):
        if isinstance(part, torch.Tensor):
            given = replace_at(given, steps, change(steps, part))
    return Example(*given)


def _make_room(tensor: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    if tuple(tensor.shape) == sizes or tensor.layout != torch.strided or tensor.is_quantized:
        return _repeat(tensor, sizes)
    return torch.empty(sizes, dtype=tensor.dtype, device=tensor.device, requires_grad=tensor.requires_grad)


def _repeat(tensor: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    for dimension, wanted in enumerate(sizes):
        if wanted != tensor.shape[dimension]:
            index = torch.arange(wanted, device=tensor.device) % tensor.shape[dimension]
            tensor = tensor.index_select(dimension, index)
    return tensor


def gather(name: str, axes: Iterable[Axis], by: Callable[[Axis], Hashable]) -> tuple[Group, ...]:
    """Sort axes into groups of one name by what they have in common."""
    gathered: dict[Hashable, list[Axis]] = {}
    for axis in axes:
        gathered.setdefault(by(axis), []).append(axis)
    return tuple(Group(name, tuple(alike)) for alike in gathered.values())


def _grow_far(axis: Axis) -> int:
    """Enlarge an axis a lot, and by an odd number: code may take a quarter of it, rounded, in Python."""
    return axis.size + 2 * min(axis.size, _FEW) + 1


def growths(group: Group) -> list[Callable[[Axis], int]]:
    """List ways to enlarge the axes of a group, likeliest to suit a model first."""
    if group.name == "batch":
        return [_grow_far, lambda axis: axis.size * 2]  # clips of so many frames, one after the other
    if group.name == "alike":
        lead = group.axes[0]
        return [lambda axis: lead.size + (63 if lead.dimension % 2 == 0 else 31), lambda axis: lead.size * 2]
    if group.name == "alone":
        return [lambda axis: axis.size * 2]
    if group.name.startswith("size"):
        return [_grow_far, lambda axis: axis.size * 2]
    # Height and width grow unequally, so that code which takes one for the other is found out.
    # Odd sizes first, because code that asks whether a size is even is found out by no others.
    return [
        lambda axis: axis.size + (63 if axis.dimension % 2 == 0 else 31),
        lambda axis: axis.size + (64 if axis.dimension % 2 == 0 else 32),
        lambda axis: axis.size * (2 if axis.dimension % 2 == 0 else 3),
        lambda axis: axis.size * 2,
        lambda axis: axis.size + 1,
    ]
