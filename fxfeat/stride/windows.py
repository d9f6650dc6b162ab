"""What a convolution or a pool does along each spatial axis, and what it does once its stride is gone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from fxfeat.stride.grid import Axes

Kind = Literal["conv", "max", "average", "pad", "slice"]


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
