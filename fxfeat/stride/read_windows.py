"""Read from a call, of a layer or a function, what window it slides."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import fx, nn

from fxfeat.ir.node_meta import TensorMeta, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import map_nodes, nodes_in
from fxfeat.stride.dense import END_PADDED, DenseAvgPool, DenseMaxPool, convolve, pool_average, pool_max
from fxfeat.stride.windows import Kind, Window
from fxfeat.vision.learnt import is_fixed
from fxfeat.vision.operations import AVERAGE_POOL_LAYERS, CONVOLUTION_LAYERS, MAX_POOL_LAYERS, module_of

_PAD_LAYERS = tuple(
    getattr(nn, f"{kind}Pad{rank}d")
    for kind in ("Zero", "Constant", "Reflection", "Replication", "Circular")
    for rank in (1, 2, 3)
)
_END_PADDED_LAYERS: tuple[Any, ...] = tuple(END_PADDED.values())
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
_DENSE: dict[Any, tuple[str, ...]] = {
    convolve: ("input", "weight", "bias", "ends", "stride", "dilation", "groups"),
    pool_max: ("input", "kernel", "ends", "stride", "dilation"),
    pool_average: ("input", "kernel", "ends", "stride", "dilation", "counted", "divisor"),
}


def read_window(recording: Recording, node: fx.Node) -> Window | None:
    """Read a node that slides a window or pads; None for any other."""
    module = module_of(recording, node)
    if module is not None:
        return _of_module(module)
    if node.op != "call_function":
        return None
    if node.target in _DENSE:
        return _of_dense_call(recording, node)
    kind = _FUNCTIONS.get(getattr(node.target, "__name__", ""))
    return None if kind is None else _of_function(recording, node, kind)


def _of_module(module: Any) -> Window | None:
    if isinstance(module, _END_PADDED_LAYERS):
        plain = _convolution(module.kernel_size, module.stride, "valid", module.dilation, True)
        return dataclasses.replace(plain, pads=_pairs(module.ends))
    if isinstance(module, CONVOLUTION_LAYERS):
        learned = next(module.parameters(), None) is not None
        return _convolution(module.kernel_size, module.stride, module.padding, module.dilation, learned)
    if isinstance(module, DenseMaxPool):
        return Window("max", module.kernel, module.stride, _pairs(module.ends), module.dilation)
    if isinstance(module, DenseAvgPool):
        pads, counts = _pairs(module.ends), module.counted
        kernel, dilation = module.kernel, module.dilation
        return Window("average", kernel, module.stride, pads, dilation, counts_pads=counts, divisor=module.divisor)
    if isinstance(module, MAX_POOL_LAYERS):
        return _max_pool(vars(module), _rank_of(module))
    if isinstance(module, AVERAGE_POOL_LAYERS):
        return _average_pool(vars(module), _rank_of(module))
    return _pad(tuple(module.padding)) if isinstance(module, _PAD_LAYERS) else None


def _pairs(ends: Any) -> tuple[tuple[int, int], ...]:
    """Read padding as ``torch.nn.functional.pad`` takes it."""
    return tuple((int(ends[at]), int(ends[at + 1])) for at in range(0, len(ends), 2))[::-1]


def _rank_of(module: nn.Module) -> int:
    kinds = (*MAX_POOL_LAYERS, *AVERAGE_POOL_LAYERS)
    return next((index % 3 + 1 for index, kind in enumerate(kinds) if isinstance(module, kind)), 0)


def arguments_of(node: fx.Node, kind: Kind) -> dict[str, Any]:
    """Name the arguments of a functional call."""
    return {**dict(zip(_ARGUMENTS[kind], node.args, strict=False)), **node.kwargs}


def _of_function(recording: Recording, node: fx.Node, kind: Kind) -> Window | None:
    given = arguments_of(node, kind)
    if kind == "pad":
        amounts = given["pad"]
        return None if nodes_in(amounts) else _pad(tuple(amounts))
    settings = {name: map_nodes(value, lambda source: meta_of(source).value) for name, value in given.items()}
    rank = int(str(node.target.__name__)[-2])  # type: ignore[union-attr]
    if kind == "conv":
        kernel = settings["weight"].shape[2:] if isinstance(settings["weight"], TensorMeta) else ()
        learned = not is_fixed(recording, given["weight"])
        defaults = {"stride": 1, "padding": 0, "dilation": 1}
        stride, padding, dilation = (_spread(settings.get(name, value), rank) for name, value in defaults.items())
        return _convolution(kernel, stride, padding, dilation, learned)
    return _max_pool(settings, rank) if kind == "max" else _average_pool(settings, rank)


def _of_dense_call(recording: Recording, node: fx.Node) -> Window:
    target: Any = node.target
    given: dict[str, Any] = {**dict(zip(_DENSE[target], node.args, strict=False)), **node.kwargs}
    pads, stride, dilation = _pairs(given["ends"]), tuple(given["stride"]), tuple(given["dilation"])
    if target is convolve:
        kernel = tuple(meta_of(given["weight"]).value.shape[2:])
        return Window("conv", kernel, stride, pads, dilation, learned=not is_fixed(recording, given["weight"]))
    if target is pool_max:
        return Window("max", tuple(given["kernel"]), stride, pads, dilation)
    counts, divisor = given.get("counted", True), given.get("divisor")
    return Window("average", tuple(given["kernel"]), stride, pads, dilation, counts_pads=counts, divisor=divisor)


def _spread(value: Any, rank: int) -> Any:
    if isinstance(value, str):
        return value
    if not isinstance(value, (tuple, list)):
        return (int(value),) * rank
    return tuple(int(size) for size in value) * (rank if len(value) == 1 else 1)


def _convolution(kernel: Any, stride: Any, padding: Any, dilation: Any, learned: bool) -> Window:
    kernel = tuple(kernel)
    reach = tuple(d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
    if padding == "same":
        pads = tuple((total // 2, total - total // 2) for total in reach)
    elif padding == "valid":
        pads = tuple((0, 0) for _ in kernel)
    else:
        pads = tuple((size, size) for size in padding)
    return Window("conv", kernel, tuple(stride), pads, tuple(dilation), learned=learned, same=padding == "same")


def _max_pool(settings: dict[str, Any], rank: int) -> Window:
    kernel = _spread(settings["kernel_size"], rank)
    stride = _spread(settings.get("stride") or kernel, rank)
    pads = tuple((size, size) for size in _spread(settings.get("padding", 0), rank))
    dilation = _spread(settings.get("dilation", 1), rank)
    indices = bool(settings.get("return_indices"))
    return Window("max", kernel, stride, pads, dilation, bool(settings.get("ceil_mode")), indices=indices)


def _average_pool(settings: dict[str, Any], rank: int) -> Window:
    kernel = _spread(settings["kernel_size"], rank)
    stride = _spread(settings.get("stride") or kernel, rank)
    pads = tuple((size, size) for size in _spread(settings.get("padding", 0), rank))
    counts = settings.get("count_include_pad", True)
    divisor = settings.get("divisor_override")
    ceil = bool(settings.get("ceil_mode"))
    return Window("average", kernel, stride, pads, (1,) * rank, ceil, counts_pads=counts, divisor=divisor)


def _pad(amounts: tuple[int, ...]) -> Window:
    pairs = _pairs(amounts)
    ones = (1,) * len(pairs)
    return Window("pad", ones, ones, pairs, ones)
