"""Where the modules of a model hang, and other modules in their places."""

from __future__ import annotations

import copy
from collections.abc import Container, Sequence

from torch import nn

from fxfeat.stride.image_flow import Flow


class Places:
    """Where each module of a model hangs, and by which of these paths it is called."""

    def __init__(self, model: nn.Module, flows: dict[bool, Flow]) -> None:
        self.paths: dict[int, list[str]] = {}
        self.modules: dict[str, int] = {}
        for path, module in model.named_modules(remove_duplicate=False):
            self.paths.setdefault(id(module), []).append(path)
            self.modules[path] = id(module)
        self.called = {call.reached for flow in flows.values() for call in flow.recording.module_calls}

    def same_as(self, path: str, alike: Container[str]) -> list[str]:
        """List the paths of the module at a path, or that one alone if it is called otherwise by another.

        Args:
            path: a path that the module is called by.
            alike: the paths of modules that are to change in the same way.
        """
        every = self.paths[self.modules[path]]
        same = all(other in alike for other in every if other in self.called)
        return every if same else [path]


def own(model: nn.Module, path: str, paths: Sequence[str]) -> nn.Module:
    """Return the module at a path; make all around it the path's own, unless all its paths change alike."""
    module = model
    counts: dict[int, int] = {}
    for _, hung in model.named_modules(remove_duplicate=False):
        counts[id(hung)] = counts.get(id(hung), 0) + 1
    alone = len(paths) == 1
    for name in path.split(".") if path else ():
        child = module._modules[name]
        assert child is not None
        if alone and counts[id(child)] > 1:
            child = clone_module(child)
            module._modules[name] = child
            counts[id(child)] = 1
        module = child
    return module


def clone_module(module: nn.Module) -> nn.Module:
    """Copy one module; its tensors and its children are shared."""
    clone = copy.copy(module)
    for table in ("_modules", "_parameters", "_buffers"):
        clone.__dict__[table] = dict(module.__dict__[table])
    clone.__dict__["_non_persistent_buffers_set"] = set(module._non_persistent_buffers_set)
    return clone


def replace(model: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """Hang another module in at a path; return the model, which is the module itself if the path is empty."""
    if not path:
        return module
    owner, _, name = path.rpartition(".")
    model.get_submodule(owner)._modules[name] = module
    return model
