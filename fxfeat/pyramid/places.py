"""Where on the image the numbers of each value lie, followed from step to step of a recording."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import fx, nn

from fxfeat.ir.node_meta import TensorMeta, holds_tensor, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import nodes_in
from fxfeat.vision.layout import Layout
from fxfeat.vision.learnt import has_weights
from fxfeat.vision.operations import ATTENTION, JOINS, PARTS, TURNS, VIEWS, function_of, module_of, slides
from fxfeat.vision.replay import read_attribute, run_call
from fxfeat.vision.shapes import Shape, is_tensor, position_of, shape_of
from fxfeat.vision.token_layout import lay_out

Places = tuple[Any, ...]
"""For each axis of the image, the pixel that each number of a value lies at, in the value's own structure.

Pixels are counted from 1; what lies at no place of the image, such as a class token, is NaN.
"""

_MOVES = VIEWS | TURNS | PARTS | JOINS
_MOVES |= {"stack", "expand", "expand_as", "repeat", "repeat_interleave", "tile", "flip", "roll", "rot90", "narrow"}
_MOVES |= {"select", "index_select", "gather", "take_along_dim", "tensor_split", "pad", "unfold", "t", "ravel"}
_MOVES |= {"pixel_shuffle", "pixel_unshuffle", "rearrange", "reshape_as", "view_as"}
_MOVING_LAYERS = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Unfold, nn.PixelShuffle, nn.PixelUnshuffle)
_REORDERS = re.compile(
    "sort|topk|scatter|index_|masked_|take|unique|grid_sample|shuffle|cumsum|kthvalue|nonzero|fold|fft"
)
_REDUCES = frozenset(("amax", "amin", "mean", "sum", "max", "min", "logsumexp"))


def lay_places(layout: Layout, shape: Shape) -> Places:
    """Write its own place at each number of a value that holds a map in the image's order.

    >>> rows, columns = lay_places(Layout("NLC", (2, 2), 3, (8.0, 8.0)), (1, 4, 3))
    >>> rows[0, :, 0], columns[0, :, 0]
    (tensor([1., 1., 9., 9.], dtype=torch.float64), tensor([1., 9., 1., 9.], dtype=torch.float64))
    """
    steps = [torch.arange(size, dtype=torch.float64) for size in layout.grid]
    axes = [step * scale + 1 for step, scale in zip(steps, layout.scale, strict=True)]
    return tuple(lay_out(axis, layout, shape) for axis in torch.meshgrid(*axes, indexing="ij"))


def move_places(recording: Recording, node: fx.Node, places: Mapping[fx.Node, Places]) -> Places | None:
    """Say where the numbers of a value lie, from where those that it was computed from do; None where nothing tells.

    Steps that only arrange, pick or join are replayed. What sums over some places lies in the middle of these;
    attention lies where its queries do. What sorts, or picks by values, tells nothing.
    """
    sources = sorted((source for source in node.all_input_nodes if source in places), key=position_of)
    if not sources or not holds_tensor(meta_of(node).value):
        return None
    axes = range(len(places[sources[0]]))
    try:
        return tuple(_move(recording, node, sources, places, axis) for axis in axes)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
        return None


def _move(
    recording: Recording, node: fx.Node, sources: list[fx.Node], places: Mapping[fx.Node, Places], axis: int
) -> Any:
    def value_of(source: fx.Node) -> Any:
        return places[source][axis] if source in places else _value_without_places(recording, source)

    module, name = module_of(recording, node), function_of(node)
    if isinstance(module, _MOVING_LAYERS):
        return _replay(node, value_of, module)
    if name in _MOVES:
        return _replay(node, value_of, None)
    if _REORDERS.search(name):
        raise ValueError
    if name in _REDUCES:
        middle = run_call(node, value_of, _find_middle)
        # A maximum along an axis comes with where it stood.
        return (middle, middle) if isinstance(meta_of(node).value, (tuple, list)) else middle
    given = [places[source][axis] for source in sources]
    if name in ATTENTION | {"einsum"}:
        return _attend(node, name, value_of)
    kept = [part for part in given if isinstance(part, torch.Tensor)]
    if slides(recording, node) and is_tensor(node):
        return _slide(shape_of(node), kept[0])
    if has_weights(recording, node):
        kept = [part.nanmean(-1, keepdim=True).expand(part.shape) for part in kept]
    return _keep(meta_of(node).value, kept)


def _slide(shape: Shape, given: torch.Tensor) -> torch.Tensor:
    """Place what a window makes at the window's middle, as far as sizes tell: windows lie evenly over a map."""
    if given.dim() != len(shape) or len(shape) < 3 or given.shape[0] != shape[0]:
        raise ValueError
    middle = given.nanmean(1, keepdim=True)
    for axis, size in enumerate(shape[2:], 2):
        before = middle.shape[axis]
        at = ((torch.arange(size) + 0.5) * before / size - 0.5).clamp(0, before - 1)
        low, high = middle.index_select(axis, at.floor().long()), middle.index_select(axis, at.ceil().long())
        share = (at - at.floor()).view(-1, *(1,) * (len(shape) - axis - 1))
        middle = low + (high - low) * share
    return middle.expand(shape)


def _value_without_places(recording: Recording, node: fx.Node) -> Any:
    """Return what a step is given that lies nowhere: numbers as they are, tensors of data as no place."""
    value = meta_of(node).value
    if not isinstance(value, TensorMeta):
        return value
    if value.dtype.is_floating_point:
        return torch.full(value.shape, torch.nan, dtype=torch.float64)
    if node.op == "call_function" and meta_of(node).constant and not meta_of(node).draws:
        return run_call(node, lambda source: _value_without_places(recording, source))
    if node.op != "get_attr":
        raise ValueError  # an index or a mask that is computed
    index: torch.Tensor = read_attribute(recording, str(node.target)).cpu()
    return index


def _replay(node: fx.Node, value_of: Any, call: Any) -> Any:
    try:
        replayed = run_call(node, value_of, call)
    except RuntimeError:  # a view of what is no longer expanded, but laid out
        replayed = run_call(node, lambda source: _lay_flat(value_of(source)), call)
    return _without_padding(replayed)


def _lay_flat(value: Any) -> Any:
    return value.contiguous() if isinstance(value, torch.Tensor) else value


def _without_padding(value: Any) -> Any:
    """Take zeros, which no place is, as what was put around a map."""
    if isinstance(value, (tuple, list)):
        return type(value)(map(_without_padding, value))
    return value.masked_fill(value == 0, torch.nan) if isinstance(value, torch.Tensor) and (value == 0).any() else value


def _find_middle(value: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """Take the middle of places over the axes that a sum or a maximum goes over."""
    dim = args[0] if args else kwargs.get("dim", kwargs.get("axis"))
    keep = bool(args[1] if len(args) > 1 else kwargs.get("keepdim", False))
    if isinstance(dim, torch.Tensor):
        raise ValueError
    return torch.nanmean(value) if dim is None else torch.nanmean(value, dim, keep)


def _attend(node: fx.Node, name: str, value_of: Any) -> torch.Tensor:
    """Place a product of matrices: by the rows of the first where they lie at places, else by the last's columns."""
    shape = shape_of(node)
    given = [value_of(source) for source in nodes_in((node.args, node.kwargs)) if is_tensor(source)]
    if name == "einsum":
        return _place_einsum(node, given, shape)
    if name == "baddbmm":
        given = given[1:]
    rows = given[0].nanmean(-1, keepdim=True)
    columns = given[2 if name == "scaled_dot_product_attention" else 1].nanmean(-2, keepdim=True)
    return (rows if _varies(rows) or not _varies(columns) else columns).expand(shape)


def _place_einsum(node: fx.Node, given: list[torch.Tensor], shape: Shape) -> torch.Tensor:
    equation = str(node.args[0]).replace(" ", "")
    inputs, output = equation.split("->")
    placed = [_reduce_term(value, term, output) for value, term in zip(given, inputs.split(","), strict=True)]
    return next((value for value in placed if _varies(value)), placed[0]).expand(shape)


def _reduce_term(value: torch.Tensor, term: str, output: str) -> torch.Tensor:
    """Take the middle over the letters that are summed over, and order the others as the result does."""
    summed = [index for index, letter in enumerate(term) if letter not in output]
    value = value.nanmean(summed, keepdim=True) if summed else value
    kept = [index for index, letter in enumerate(term) if letter in output]
    value = value.squeeze(summed)
    order = sorted(range(len(kept)), key=lambda index: output.index(term[kept[index]]))
    value = value.permute(order)
    present = {term[index] for index in kept}
    for index, letter in enumerate(output):
        value = value if letter in present else value.unsqueeze(index)
    return value


def _varies(value: torch.Tensor) -> bool:
    known = value[~value.isnan()]
    return bool(known.numel()) and bool((known != known[0]).any())


def _keep(value: Any, given: list[torch.Tensor]) -> Any:
    """Place what a step computes from each place, or from all that one place holds."""
    if isinstance(value, (tuple, list)):
        return tuple(_keep_if_fits(part, given) for part in value)
    if not isinstance(value, TensorMeta):
        raise ValueError
    return _keep_tensor(tuple(value.shape), given)


def _keep_if_fits(value: Any, given: list[torch.Tensor]) -> Any:
    try:
        return _keep(value, given)
    except ValueError:
        return None


def _keep_tensor(shape: Shape, given: Iterable[torch.Tensor]) -> torch.Tensor:
    given = list(given)
    for place in given:
        if tuple(place.shape) == shape:
            return place
    for place in given:
        if place.shape[:-1] == shape[:-1]:
            return place.nanmean(-1, keepdim=True).expand(shape)
    for place in given:
        if (
            len(shape) > 2
            and place.dim() == len(shape)
            and (place.shape[0], *place.shape[2:]) == (shape[0], *shape[2:])
        ):
            return place.nanmean(1, keepdim=True).expand(shape)
    raise ValueError
