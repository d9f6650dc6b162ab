"""Give a layer another window: the same layer with other settings, else a layer that can slide it."""

from __future__ import annotations

from typing import Any

from torch import nn

from fxfeat.stride.change import Change
from fxfeat.stride.dense import END_PADDED, DenseAvgPool, DenseMaxPool
from fxfeat.stride.image_flow import Flow
from fxfeat.stride.module_places import clone_module
from fxfeat.stride.refusals import refuse
from fxfeat.stride.windows import Window, ends_of, even_pads, fits_pool


def change_layer(layer: Any, flows: dict[bool, Flow], change: Change) -> nn.Module:
    """Return a layer with the changed window and the same tensors.

    Raises:
        RequestError: where no layer can do that.
    """
    if change.dropped:
        return nn.Identity()
    make = {"conv": _convolution, "max": _max_pool, "average": _average_pool, "pad": _pad}[change.after.kind]
    changed = make(layer, change.after)
    if changed is None:
        flow = next(flow for flow in flows.values() if change in flow.changes)
        refuse(flow.recording, change.node, "its class takes no unequal padding")
    return changed


def _convolution(layer: Any, window: Window) -> nn.Module | None:
    clone: Any = clone_module(layer)
    clone.stride, clone.dilation = window.stride, window.dilation
    even = even_pads(window)
    if even is not None:
        clone.padding = even
        clone._reversed_padding_repeated_twice = ends_of(window)
        return clone
    clone.padding = (0,) * len(window.kernel)
    if layer.padding_mode != "zeros":
        # Torch pads by this before such a convolution, whatever the two ends are.
        clone._reversed_padding_repeated_twice = ends_of(window)
        return clone
    if type(layer) not in END_PADDED:
        return None
    clone.__class__ = END_PADDED[type(layer)]
    clone.ends = tuple(ends_of(window))
    return clone


def _max_pool(layer: Any, window: Window) -> nn.Module:
    even = even_pads(window)
    if even is None or not fits_pool(window):
        return DenseMaxPool(window.kernel, tuple(ends_of(window)), window.stride, window.dilation)
    clone: Any = clone_module(layer)
    clone.stride, clone.dilation, clone.padding, clone.ceil_mode = window.stride, window.dilation, even, window.ceil
    return clone


def _average_pool(layer: Any, window: Window) -> nn.Module:
    even = even_pads(window)
    if even is None or max(window.dilation) > 1:
        ends = tuple(ends_of(window))
        return DenseAvgPool(window.kernel, ends, window.stride, window.dilation, window.counts_pads, window.divisor)
    clone: Any = clone_module(layer)
    clone.stride, clone.padding, clone.ceil_mode = window.stride, even, window.ceil
    return clone


def _pad(layer: Any, window: Window) -> nn.Module:
    clone: Any = clone_module(layer)
    clone.padding = tuple(ends_of(window))
    return clone
