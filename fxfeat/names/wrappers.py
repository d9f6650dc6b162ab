"""Names that do not depend on what a model, or a part of it, is wrapped in."""

from __future__ import annotations

import re

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fxfeat.isolation.unwrap import Alone

WRAPPING = ("_orig_mod", "module")
_HOLD_A_MODULE = (Alone, nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


def spell_out(root: nn.Module, query: str) -> str:
    """Put the parts of wrappers that are there into a name, and take out those of wrappers that are not.

    >>> spell_out(nn.Sequential(nn.DataParallel(nn.Sequential(nn.ReLU()))), "0.0@1")
    '0.module.0@1'
    >>> spell_out(nn.Sequential(nn.ReLU()), "module._orig_mod.0")
    '0'
    """
    name, rest, *_ = (*re.split(r"(?=[@\[])", query, maxsplit=1), "")
    path: list[str] = []
    module: nn.Module | None = root
    for part in name.split("."):
        while module is not None and (inner := _wrapped_part(module)) not in (None, part):
            path.append(str(inner))
            module = module.get_submodule(str(inner))
        child = getattr(module, part, None)
        if isinstance(child, nn.Module) or part not in WRAPPING:
            path.append(part)
            module = child if isinstance(child, nn.Module) else None
    return ".".join(path) + rest


def leave_out(root: nn.Module, path: str) -> str:
    """Take the parts of wrappers out of a path.

    >>> leave_out(nn.Sequential(nn.DataParallel(nn.Sequential(nn.ReLU()))), "0.module.0")
    '0.0'
    """
    kept: list[str] = []
    module: nn.Module | None = root
    for part in path.split("."):
        if module is None or _wrapped_part(module) != part:
            kept.append(part)
        child = getattr(module, part, None)
        module = child if isinstance(child, nn.Module) else None
    return ".".join(kept)


def _wrapped_part(module: nn.Module) -> str | None:
    """Return the name under which a wrapper holds its model."""
    if isinstance(module, torch._dynamo.OptimizedModule):
        return "_orig_mod"
    return "module" if isinstance(module, _HOLD_A_MODULE) else None
