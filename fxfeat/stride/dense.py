"""Windows that torch's layers cannot slide: unequal padding, dilated averages."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import nn

Ends = tuple[int, ...]
"""Padding as ``torch.nn.functional.pad`` takes it: last axis first, before and after."""

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_POOL_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@torch.fx.wrap
def convolve(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    ends: Ends,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
) -> torch.Tensor:
    """Convolve after padding each end of each axis by a number of its own.

    >>> convolve(torch.ones(1, 1, 4), torch.ones(1, 1, 2), None, (0, 1), (1,), (1,))
    tensor([[[2., 2., 2., 1.]]])
    """
    function = _CONVOLVE[len(stride)]
    return function(F.pad(input, ends), weight, bias, tuple(stride), 0, tuple(dilation), groups)


@torch.fx.wrap
def pool_max(
    input: torch.Tensor, kernel: Sequence[int], ends: Ends, stride: Sequence[int], dilation: Sequence[int]
) -> torch.Tensor:
    """Take the maximum over a dilated window, after padding each end of each axis by a number of its own.

    >>> pool_max(torch.tensor([[[1.0, 5.0, 2.0, 3.0]]]), (2,), (0, 1), (1,), (1,))
    tensor([[[5., 5., 3., 3.]]])
    """
    padded = F.pad(input, ends, value=float("-inf"))
    return _POOL_MAX[len(kernel)](padded, tuple(kernel), tuple(stride), 0, tuple(dilation))


@torch.fx.wrap
def pool_average(
    input: torch.Tensor,
    kernel: Sequence[int],
    ends: Ends,
    stride: Sequence[int],
    dilation: Sequence[int],
    counted: bool = True,
    divisor: int | None = None,
) -> torch.Tensor:
    """Average over a dilated window, adding in the order in which torch's own pools add.

    >>> pool_average(torch.tensor([[[1.0, 5.0, 2.0, 3.0]]]), (2,), (0, 2), (1,), (2,))
    tensor([[[1.5000, 4.0000, 1.0000, 1.5000]]])
    >>> pool_average(torch.tensor([[[1.0, 5.0, 2.0, 3.0]]]), (2,), (0, 2), (1,), (2,), counted=False)
    tensor([[[1.5000, 4.0000, 2.0000, 3.0000]]])

    Args:
        input: a map (N, C, *spatial).
        kernel: how many elements each axis of the window has.
        ends: the zeros to put around the map.
        stride: the steps from one window to the next.
        dilation: the steps from one element of a window to the next.
        counted: whether those zeros count as elements.
        divisor: what to divide by in place of the number of elements.
    """
    total = _add_up(F.pad(input, ends), kernel, stride, dilation)
    if divisor is None and not counted:
        return total / _add_up(F.pad(torch.ones_like(input), ends), kernel, stride, dilation)
    return total / (divisor or math.prod(kernel))


@torch.fx.wrap
def leave_out(input: torch.Tensor) -> torch.Tensor:
    """Stand for a pool that goes with its stride."""
    return input.clone()


def _add_up(
    padded: torch.Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> torch.Tensor:
    rank = len(kernel)
    reach = [dilation[axis] * (kernel[axis] - 1) for axis in range(rank)]
    total = None
    for offsets in itertools.product(*(range(size) for size in kernel)):
        part = padded
        for axis, offset in enumerate(offsets):
            start, size = offset * dilation[axis], padded.shape[axis - rank] - reach[axis]
            part = part.narrow(axis - rank, start, size)
        steps: Any = (..., *(slice(None, None, step) for step in stride))
        part = part[steps]
        total = part if total is None else total + part
    assert total is not None
    return total


class _PadsEnds:
    """A convolution that pads each end by a number of its own."""

    ends: Ends = ()
    weight: torch.Tensor
    bias: torch.Tensor | None
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return convolve(input, self.weight, self.bias, self.ends, self.stride, self.dilation, self.groups)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, ends={self.ends}"  # type: ignore[misc]


class EndPaddedConv1d(_PadsEnds, nn.Conv1d):
    """A ``Conv1d`` with unequal padding."""


class EndPaddedConv2d(_PadsEnds, nn.Conv2d):
    """A ``Conv2d`` with unequal padding."""


class EndPaddedConv3d(_PadsEnds, nn.Conv3d):
    """A ``Conv3d`` with unequal padding."""


END_PADDED: dict[type, type] = {nn.Conv1d: EndPaddedConv1d, nn.Conv2d: EndPaddedConv2d, nn.Conv3d: EndPaddedConv3d}


class DenseMaxPool(nn.Module):
    """A max pool with unequal padding."""

    def __init__(self, kernel: Sequence[int], ends: Ends, stride: Sequence[int], dilation: Sequence[int]) -> None:
        super().__init__()
        self.kernel, self.ends, self.stride, self.dilation = tuple(kernel), ends, tuple(stride), tuple(dilation)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Pool a map (N, C, *spatial)."""
        return pool_max(input, self.kernel, self.ends, self.stride, self.dilation)

    def extra_repr(self) -> str:
        """Show the window."""
        return f"kernel={self.kernel}, ends={self.ends}, stride={self.stride}, dilation={self.dilation}"


class DenseAvgPool(nn.Module):
    """An average pool with dilation and unequal padding."""

    def __init__(
        self,
        kernel: Sequence[int],
        ends: Ends,
        stride: Sequence[int],
        dilation: Sequence[int],
        counted: bool = True,
        divisor: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel, self.ends, self.stride, self.dilation = tuple(kernel), ends, tuple(stride), tuple(dilation)
        self.counted, self.divisor = counted, divisor

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Pool a map (N, C, *spatial)."""
        return pool_average(input, self.kernel, self.ends, self.stride, self.dilation, self.counted, self.divisor)

    def extra_repr(self) -> str:
        """Show the window."""
        window = f"kernel={self.kernel}, ends={self.ends}, stride={self.stride}, dilation={self.dilation}"
        return f"{window}, counted={self.counted}"


DENSE_LAYERS = (EndPaddedConv1d, EndPaddedConv2d, EndPaddedConv3d, DenseMaxPool, DenseAvgPool)
DENSE_FUNCTIONS = (convolve, pool_max, pool_average, leave_out)
