"""Record models with everything open that holds a convolution or a pool."""

from __future__ import annotations

import torch
from torch import nn

from fxfeat.ir.recording import Recording
from fxfeat.stride.dense import DENSE_FUNCTIONS, DENSE_LAYERS
from fxfeat.trace.setup import Setup, read_setup, record_mode
from fxfeat.vision.operations import AVERAGE_POOL_LAYERS, CONVOLUTION_LAYERS, MAX_POOL_LAYERS


def record_windows(setup: Setup, training: bool) -> Recording:
    """Record a model with every module open that holds a convolution or a pool.

    Raises:
        TraceError: where the model cannot be recorded in that mode.
    """
    windows = (*CONVOLUTION_LAYERS, *MAX_POOL_LAYERS, *AVERAGE_POOL_LAYERS)
    opened = {
        path
        for path, module in setup.model.named_modules()
        if path and any(isinstance(inner, windows) for inner in list(module.modules())[1:])
    }
    return record_mode(setup, training, frozenset(opened))


def record_dense(changed: nn.Module, setup: Setup, training: bool) -> Recording:
    """Record a changed model with the layers and functions of dense windows whole.

    Raises:
        TraceError: where it does not run.
    """
    kwargs = {"leaf_modules": list(DENSE_LAYERS), "autowrap_functions": list(DENSE_FUNCTIONS)}
    again = read_setup(changed, kwargs, None, torch.zeros(1))
    again.examples = setup.examples
    return record_windows(again, training)
