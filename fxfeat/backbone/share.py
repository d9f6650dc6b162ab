"""Copy a tree of modules that keeps the original's tensors."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


def share(model: nn.Module) -> nn.Module:
    """Copy every module of a model, but none of its parameters, buffers and other tensors.

    >>> model = nn.Sequential(nn.Linear(2, 2))
    >>> copied = share(model)
    >>> copied[0] is model[0], copied[0].weight is model[0].weight
    (False, True)
    """
    known: dict[int, Any] = {}
    for module in model.modules():
        held = (*module._parameters.values(), *module._buffers.values(), *vars(module).values())
        known.update({id(tensor): tensor for tensor in held if isinstance(tensor, torch.Tensor)})
    return copy.deepcopy(model, known)


def replace(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of another, in that one's mode, wherever the tree holds it."""
    old = root.get_submodule(path)
    module.train(old.training)
    for owner in root.modules():
        for name, held in owner._modules.items():
            if held is old:
                owner._modules[name] = module
