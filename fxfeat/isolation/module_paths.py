"""Where the modules of a model are."""

from __future__ import annotations

from torch import nn


def paths_of(model: nn.Module) -> dict[nn.Module, str]:
    """Map each module to its path; ``named_modules`` takes as long as a small model's whole forward.

    >>> [path for path in paths_of(nn.Sequential(nn.ReLU(), nn.Sequential(nn.Tanh()))).values()]
    ['', '0', '1', '1.0']
    """
    paths: dict[nn.Module, str] = {}
    waiting = [(model, "")]
    while waiting:
        module, path = waiting.pop()
        if module in paths:
            continue
        paths[module] = path
        children = reversed(module._modules.items()) if module._modules else ()
        waiting += [(child, f"{path}.{name}" if path else name) for name, child in children if child is not None]
    return paths
