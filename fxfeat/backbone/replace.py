"""Other modules in the places of a model's own."""

from __future__ import annotations

from torch import nn


def replace(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of another, in that one's mode, wherever the tree holds it."""
    old = root.get_submodule(path)
    module.train(old.training)
    places = [(owner, name) for owner in root.modules() for name, child in owner._modules.items() if child is old]
    for owner, name in places:
        owner._modules[name] = module
