"""What a convolution or a pool does along each spatial axis, and what it does once its stride is gone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from torch import fx, nn

from fxfeat.ir.node_meta import TensorMeta, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import map_nodes, nodes_in
from fxfeat.stride.dense import END_PADDED, DenseAvgPool, DenseMaxPool, convolve, pool_average, pool_max

Kind = Literal["conv", "max", "average", "pad", "slice"]
Axes = tuple[int, ...]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
AVERAGE_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
PADS = tuple(
    getattr(nn, f"{kind}Pad{rank}d")
    for kind in ("Zero", "Constant", "Reflection", "Replication", "Circular")
    for rank in (1, 2, 3)
)

_ARGUMENTS = {
    "conv": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "max": ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    "average": (
        *("input", "kernel_size", "stride", "padding"),
        *("ceil_mode", "count_include_pad", "divisor_override"),
    ),
    "pad": ("input", "pad", "mode", "value"),
}
_FUNCTIONS: dict[str, Kind] = {
    **{f"conv{rank}d": "conv" for rank in (1, 2, 3)},
    **{f"max_pool{rank}d": "max" for rank in (1, 2, 3)},
    **{f"avg_pool{rank}d": "average" for rank in (1, 2, 3)},
    "pad": "pad",
}


@dataclass(frozen=True)
class Window:
    """A sliding window: one number per spatial axis, and for ``pads`` the zeros before and after.

    ``learned`` tells a convolution that a parameter drives from a fixed filter, such as a blur.
    ``same`` marks padding that torch works out itself (``padding='same'``).
    """

    kind: Kind
    kernel: Axes
    stride: Axes
    pads: tuple[tuple[int, int], ...]
    dilation: Axes
    ceil: bool = False
    learned: bool = True
    counts_pads: bool = True
    divisor: int | None = None
    same: bool = False
    indices: bool = False

    @property
    def reach(self) -> Axes:
        """How far the last element of the window lies from the first."""
        return tuple(d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True))


def read_window(recording: Recording, node: fx.Node) -> Window | None:
    """Read a node that slides a window or pads; None for any other."""
    if node.op == "call_module":
        return _of_module(recording.root.get_submodule(str(node.target)))
    if node.op != "call_function":
        return None
    if node.target in _DENSE:
        return _of_dense_call(recording, node)
    kind = _FUNCTIONS.get(getattr(node.target, "__name__", ""))
    return None if kind is None else _of_function(recording, node, kind)


def _of_module(module: Any) -> Window | None:
    if isinstance(module, CONVOLUTIONS):
        if isinstance(module, tuple(END_PADDED.values())):
            plain = _convolution(module.kernel_size, module.stride, "valid", module.dilation, True)
            return dataclasses.replace(plain, pads=_pairs(module.ends))
        learned = next(module.parameters(), None) is not None
        return _convolution(module.kernel_size, module.stride, module.padding, module.dilation, learned)
    if isinstance(module, DenseMaxPool):
        return Window("max", module.kernel, module.stride, _pairs(module.ends), module.dilation)
    if isinstance(module, DenseAvgPool):
        pads, counts = _pairs(module.ends), module.counted
        kernel, dilation = module.kernel, module.dilation
        return Window("average", kernel, module.stride, pads, dilation, counts_pads=counts, divisor=module.divisor)
    rank = _rank_of(module)
    if isinstance(module, MAX_POOLS):
        known = vars(module)
        return _max_pool(known, rank)
    if isinstance(module, AVERAGE_POOLS):
        return _average_pool(vars(module), rank)
    if isinstance(module, PADS):
        return _pad(tuple(module.padding))
    return None


def _pairs(ends: Any) -> tuple[tuple[int, int], ...]:
    """Read padding as ``torch.nn.functional.pad`` takes it."""
    return tuple((int(ends[at]), int(ends[at + 1])) for at in range(0, len(ends), 2))[::-1]


def _rank_of(module: nn.Module) -> int:
    kinds = (*MAX_POOLS, *AVERAGE_POOLS)
    return next((index % 3 + 1 for index, kind in enumerate(kinds) if isinstance(module, kind)), 0)


def arguments_of(node: fx.Node, kind: Kind) -> dict[str, Any]:
    """Name the arguments of a functional call."""
    return {**dict(zip(_ARGUMENTS[kind], node.args, strict=False)), **node.kwargs}


def _of_function(recording: Recording, node: fx.Node, kind: Kind) -> Window | None:
    given = arguments_of(node, kind)
    if kind == "pad":
        amounts = given["pad"]
        return None if nodes_in(amounts) else _pad(tuple(amounts))
    known = {name: map_nodes(value, lambda held: meta_of(held).value) for name, value in given.items()}
    rank = int(str(node.target.__name__)[-2])  # type: ignore[union-attr]
    if kind == "conv":
        kernel = known["weight"].shape[2:] if isinstance(known["weight"], TensorMeta) else ()
        learned = not _is_fixed(recording, given["weight"])
        settings = (known.get("stride", 1), known.get("padding", 0), known.get("dilation", 1))
        stride, padding, dilation = (_spread(value, rank) for value in settings)
        return _convolution(kernel, stride, padding, dilation, learned)
    return _max_pool(known, rank) if kind == "max" else _average_pool(known, rank)


_DENSE: dict[Any, tuple[str, ...]] = {
    convolve: ("input", "weight", "bias", "ends", "stride", "dilation", "groups"),
    pool_max: ("input", "kernel", "ends", "stride", "dilation"),
    pool_average: ("input", "kernel", "ends", "stride", "dilation", "counted", "divisor"),
}


def _of_dense_call(recording: Recording, node: fx.Node) -> Window:
    target: Any = node.target
    given: dict[str, Any] = {**dict(zip(_DENSE[target], node.args, strict=False)), **node.kwargs}
    pads, stride, dilation = _pairs(given["ends"]), tuple(given["stride"]), tuple(given["dilation"])
    if target is convolve:
        kernel = tuple(meta_of(given["weight"]).value.shape[2:])
        return Window("conv", kernel, stride, pads, dilation, learned=not _is_fixed(recording, given["weight"]))
    if target is pool_max:
        return Window("max", tuple(given["kernel"]), stride, pads, dilation)
    counts, divisor = given.get("counted", True), given.get("divisor")
    return Window("average", tuple(given["kernel"]), stride, pads, dilation, counts_pads=counts, divisor=divisor)


def _is_fixed(recording: Recording, weight: fx.Node) -> bool:
    """Say whether no parameter goes into a weight."""
    parameters = dict(recording.root.named_parameters(remove_duplicate=False))
    waiting, seen = [weight], {weight}
    while waiting:
        held = waiting.pop()
        if held.op == "placeholder" or (held.op == "get_attr" and held.target in parameters):
            return False
        fresh = set(held.all_input_nodes) - seen
        seen |= fresh
        waiting += fresh
    return True


def _spread(value: Any, rank: int) -> Any:
    if isinstance(value, str):
        return value
    if not isinstance(value, (tuple, list)):
        return (int(value),) * rank
    return tuple(int(held) for held in value) * (rank if len(value) == 1 else 1)


def _convolution(kernel: Any, stride: Any, padding: Any, dilation: Any, learned: bool) -> Window:
    kernel = tuple(kernel)
    reach = tuple(d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
    if padding == "same":
        pads = tuple((total // 2, total - total // 2) for total in reach)
    elif padding == "valid":
        pads = tuple((0, 0) for _ in kernel)
    else:
        pads = tuple((held, held) for held in padding)
    return Window("conv", kernel, tuple(stride), pads, tuple(dilation), learned=learned, same=padding == "same")


def _max_pool(known: dict[str, Any], rank: int) -> Window:
    kernel = _spread(known["kernel_size"], rank)
    stride = _spread(known.get("stride") or kernel, rank)
    pads = tuple((held, held) for held in _spread(known.get("padding", 0), rank))
    dilation = _spread(known.get("dilation", 1), rank)
    indices = bool(known.get("return_indices"))
    return Window("max", kernel, stride, pads, dilation, bool(known.get("ceil_mode")), indices=indices)


def _average_pool(known: dict[str, Any], rank: int) -> Window:
    kernel = _spread(known["kernel_size"], rank)
    stride = _spread(known.get("stride") or kernel, rank)
    pads = tuple((held, held) for held in _spread(known.get("padding", 0), rank))
    counts = known.get("count_include_pad", True)
    divisor = known.get("divisor_override")
    ceil = bool(known.get("ceil_mode"))
    return Window("average", kernel, stride, pads, (1,) * rank, ceil, counts_pads=counts, divisor=divisor)


def _pad(amounts: tuple[int, ...]) -> Window:
    pairs = _pairs(amounts)
    ones = (1,) * len(pairs)
    return Window("pad", ones, ones, pairs, ones)


def densify(window: Window, kept: Axes, rate: Axes, dilated: bool = True, fixed_pads: bool = False) -> Window:
    """Give a window the stride it keeps, and dilate it by what was removed before it.

    The first element that output 0 reads stays where it was: output ``i * k`` of the dense window reads exactly what
    output ``i`` of the strided one read. After the map, as many zeros as the strided window could see.

    Args:
        window: the window as the model has it.
        kept: the stride to leave, per axis.
        rate: the strides removed upstream, multiplied, per axis.
        dilated: whether the window is spread by ``rate``; a smoothing filter on a side branch is not.
        fixed_pads: whether the model pads before the window by what it works out itself.
    """
    rate = rate if dilated else (1,) * len(rate)
    if kept == window.stride and max(rate, default=1) == 1:
        return window
    # One element has nothing to be spread; torch may compute it in another way all the same.
    dilation = tuple(d * r if k > 1 else d for d, r, k in zip(window.dilation, rate, window.kernel, strict=True))
    if fixed_pads:
        return dataclasses.replace(window, stride=kept, dilation=dilation, ceil=False)
    pads = tuple(_pads_of(window, axis, kept[axis], rate[axis]) for axis in range(len(kept)))
    ceil = window.ceil and kept == window.stride and max(kept) > 1
    return dataclasses.replace(window, stride=kept, dilation=dilation, pads=pads, ceil=ceil, same=False)


def _pads_of(window: Window, axis: int, kept: int, rate: int) -> tuple[int, int]:
    before, after = window.pads[axis][0] * rate, window.pads[axis][1] * rate
    if kept == window.stride[axis] or not _divides(window, axis):
        return before, after
    total = window.reach[axis] * rate
    if _is_patch(window, axis):
        # The centre that timm's convolutions have; the other windows keep their first element.
        before = total // 2
    return before, total - before


def _is_patch(window: Window, axis: int) -> bool:
    """Say whether a convolution cuts its input into patches that do not overlap."""
    same = window.kernel[axis] == window.stride[axis] and window.pads[axis] == (0, 0)
    return window.kind == "conv" and same


def _divides(window: Window, axis: int) -> bool:
    """Say whether a window turns a map of ``n * stride`` into one of ``n``."""
    stride = window.stride[axis]
    slack = sum(window.pads[axis]) - window.reach[axis] - 1 + stride
    # In ceil mode the last window may begin inside the map and reach beyond its end.
    slack += stride - 1 if window.ceil else 0
    return 0 <= slack < stride


def even_pads(window: Window) -> Axes | None:
    """Return the padding of each axis where both ends have the same, as torch's layers want it."""
    if any(before != after for before, after in window.pads):
        return None
    return tuple(before for before, _ in window.pads)


def ends_of(window: Window) -> list[int]:
    """Spell padding as ``torch.nn.functional.pad`` takes it: last axis first, before and after."""
    return [amount for pair in reversed(window.pads) for amount in pair]


def fits_pool(window: Window) -> bool:
    """Say whether torch's max pools take a padding; they allow half of the kernel, whatever the dilation."""
    return all(2 * max(pair) <= size for pair, size in zip(window.pads, window.kernel, strict=True))
