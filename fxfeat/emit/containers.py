"""The modules that an extractor keeps: whole ones as they are, opened ones as containers of what is left."""

from __future__ import annotations

import functools
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxfeat.emit.names import is_identifier


class Opened(nn.Module):
    """What is left of a module whose code was written out: the children and tensors that the code still uses."""

    def __init__(self, original: str) -> None:
        super().__init__()
        self.original = original

    def __getitem__(self, index: int) -> nn.Module:
        return getattr(self, str(index))

    def _get_name(self) -> str:
        return f"Opened{self.original}"


@dataclass(frozen=True)
class Kept:
    """Paths of the submodules and tensors that emitted code uses."""

    modules: frozenset[str]
    tensors: frozenset[str]
    containers: frozenset[str] = frozenset()

    def __or__(self, other: Kept) -> Kept:
        return Kept(self.modules | other.modules, self.tensors | other.tensors, self.containers | other.containers)


def plant(extractor: nn.Module, model: nn.Module, kept: Kept, constants: dict[str, torch.Tensor]) -> None:
    """Hang what is kept of ``model`` on ``extractor``, under the same paths."""
    order = [path for path, _ in model.named_modules(remove_duplicate=False) if path in kept.modules]
    for path in order:
        if not _within(path, kept.modules):
            owner, _, name = path.rpartition(".")
            _container(extractor, model, owner).add_module(name, model.get_submodule(path))
    for path in sorted(kept.containers - kept.modules):
        if not _within(path, kept.modules):
            _container(extractor, model, path)
    for path in sorted(kept.tensors):
        if path in constants:
            object.__setattr__(extractor, path, constants[path])
        elif not _within(path, kept.modules):
            owner, _, name = path.rpartition(".")
            _share(model.get_submodule(owner), _container(extractor, model, owner), name)


def _within(path: str, modules: Container[str]) -> bool:
    """Say whether a path lies strictly inside one of some modules."""
    while "." in path:
        path = path.rpartition(".")[0]
        if path in modules:
            return True
    return False


def _container(extractor: nn.Module, model: nn.Module, path: str) -> nn.Module:
    owner, original = extractor, model
    for part in path.split(".") if path else ():
        original = original.get_submodule(part)
        if part not in owner._modules:
            made = Opened(type(original).__name__)
            made.training = original.training
            owner.add_module(part, made)
        owner = owner.get_submodule(part)
    return owner


def _share(source: nn.Module, target: nn.Module, name: str) -> None:
    value: Any = getattr(source, name)
    if name in source._parameters:
        target.register_parameter(name, value)
    elif name in source._buffers:
        target.register_buffer(name, value, persistent=name not in source._non_persistent_buffers_set)
    else:
        object.__setattr__(target, name, value)


def reacher(model: nn.Module, kept: Kept) -> Callable[[str], str]:
    """Return how emitted code spells the path to a submodule or tensor."""

    @functools.cache
    def reach(path: str) -> str:
        if not path:
            return "self"
        spelled, walked = "self", ""
        for part in path.split("."):
            spelled = _step(spelled, part, _is_indexed(model, walked, kept))
            walked = f"{walked}.{part}" if walked else part
        return spelled

    return reach


def _step(spelled: str, part: str, indexed: bool) -> str:
    if is_identifier(part):
        return f"{spelled}.{part}"
    return f"{spelled}[{part}]" if indexed and part.isdigit() else f"getattr({spelled}, {part!r})"


def _is_indexed(model: nn.Module, path: str, kept: Kept) -> bool:
    """Say whether the module at ``path`` answers ``[0]`` with its child ``"0"``."""
    if not path:
        return False
    if path not in kept.modules and not _within(path, kept.modules):
        return True
    return isinstance(model.get_submodule(path), (nn.Sequential, nn.ModuleList))
