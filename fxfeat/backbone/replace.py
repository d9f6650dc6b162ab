"""Other modules in the places of a model's own."""

from __future__ import annotations

from torch import nn


def replace(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of another, in that one's mode, wherever the tree holds it."""
    old = root.get_submodule(path)
    module.train(old.training)
    for owner in root.modules():
        for name, held in owner._modules.items():
            if held is old:
                owner._modules[name] = module
