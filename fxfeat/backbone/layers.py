"""Linear layers and convolutions: read what one is like, and make another with as many outputs as asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxfeat.vision.operations import CONVOLUTION_LAYERS


@dataclass(frozen=True)
class Layer:
    """What a classifier's layer is like apart from its number of outputs."""

    kind: type[nn.Module]
    width: int
    options: tuple[tuple[str, Any], ...]

    @property
    def is_convolution(self) -> bool:
        """Whether it works on maps, channels first."""
        return self.kind in CONVOLUTION_LAYERS


def read_layer(module: nn.Module) -> Layer | None:
    """Read a linear layer or a convolution; return None for anything else.

    >>> read_layer(nn.Linear(4, 2, bias=False))
    Layer(kind=<class 'torch.nn.modules.linear.Linear'>, width=4, options=(('bias', False),))
    """
    bias = getattr(module, "bias", None) is not None
    if isinstance(module, nn.Linear):
        return Layer(nn.Linear, module.in_features, (("bias", bias),))
    for kind in CONVOLUTION_LAYERS:
        if isinstance(module, kind):
            given = {name: getattr(module, name) for name in ("kernel_size", "stride", "padding", "dilation")}
            return Layer(kind, int(getattr(module, "in_channels", 0)), (("bias", bias), *given.items()))
    return None


def make_layer(layer: Layer, outputs: int, like: torch.Tensor | None) -> nn.Module:
    """Make a layer with fresh weights, on the device and in the dtype of a tensor.

    >>> make_layer(read_layer(nn.Conv2d(8, 10, 1)), 3, None)
    Conv2d(8, 3, kernel_size=(1, 1), stride=(1, 1))
    """
    home = {} if like is None else {"device": like.device, "dtype": like.dtype}
    return layer.kind(layer.width, outputs, **dict(layer.options), **home)


def outputs_of(module: nn.Module) -> int:
    """Return how many outputs a layer has; the identity has none of its own."""
    return int(getattr(module, "out_features", getattr(module, "out_channels", 0)))
