"""Take out of a tree of modules what code that runs on it does not use."""

from __future__ import annotations

from torch import nn

from fxfeat.ir.emission import UsedState


def strip(root: nn.Module, kept: UsedState) -> None:
    """Take out the modules and tensors that code does not use.

    The last of a stack of modules go, others become identities, so that what is left keeps its names.

    >>> tree = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    >>> strip(tree, UsedState(frozenset({"1"}), frozenset()))
    >>> tree
    Sequential(
      (0): Identity()
      (1): Linear(in_features=2, out_features=2, bias=True)
    )

    Args:
        root: the tree, which is changed.
        kept: the paths of what the code uses.
    """
    _strip(root, "", kept)


def _strip(module: nn.Module, path: str, kept: UsedState) -> None:
    prefix = f"{path}." if path else ""
    for name in [*module._parameters, *module._buffers]:
        if prefix + name not in kept.tensors:
            (module._parameters if name in module._parameters else module._buffers).pop(name)
            module._non_persistent_buffers_set.discard(name)
    for name, child in reversed(list(module._modules.items())):
        if child is None or prefix + name in kept.modules or not _has_state(child):
            continue
        if _is_used(prefix + name, kept):
            _strip(child, prefix + name, kept)
        elif isinstance(module, (nn.Sequential, nn.ModuleList)) and name == list(module._modules)[-1]:
            del module._modules[name]
        else:
            module._modules[name] = nn.Identity().train(child.training)


def _has_state(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None or next(module.buffers(), None) is not None


def _is_used(path: str, kept: UsedState) -> bool:
    held = (*kept.modules, *kept.tensors)
    return any(name.startswith(f"{path}.") for name in held)
