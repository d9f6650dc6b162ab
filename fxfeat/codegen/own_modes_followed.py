"""The modes of an extractor's modules, where an opened class sets those of its children in a way of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from fxfeat.codegen.containers import Opened, within
from fxfeat.isolation.own_modes import Setting, find_unlike
from fxfeat.isolation.preserved import sets_modes


@dataclass(frozen=True)
class OwnModes:
    """What the model's own way of setting modes gives.

    ``unlike`` are the modules that are then in the other mode, by path, and ``setters`` the opened modules whose code
    saw to that. Modules that stay whole have their own way still.
    """

    unlike: Mapping[Setting, frozenset[str]]
    setters: frozenset[str]

    def is_training(self, path: str, setting: Setting) -> bool:
        """Say in which mode the module at a path is after ``setting``."""
        return (setting == "train()") != (path in self.unlike.get(setting, ()))

    def follow(self, parts: Iterable[tuple[str, nn.Module]], root: nn.Module, setting: Setting) -> None:
        """Put the modules around which code is written out into the mode that this code would have put them in."""
        for path, module in parts if self.setters else ():
            if not ({"", path} & self.setters or within(path, self.setters)):
                continue
            training = self.is_training(path, setting)
            if module is not root and module.training != training:
                module.train(training)
            module.training = training


def read_own_modes(model: nn.Module, extractor: nn.Module) -> OwnModes:
    """Find out what a model's own way of setting modes gives, and where an extractor has lost it."""
    opened = {path for path, part in extractor.named_modules(remove_duplicate=False) if isinstance(part, Opened)}
    setters = {path for path in {"", *opened} if sets_modes(model.get_submodule(path))}
    return OwnModes(find_unlike(model), frozenset(setters))


def list_parts(extractor: nn.Module, originals: Mapping[str, nn.Module]) -> Iterable[tuple[str, nn.Module]]:
    """List the modules that an extractor sets the mode of, each below those around it."""
    whole = (module.named_modules(prefix=path, remove_duplicate=False) for path, module in originals.items())
    return itertools.chain(extractor.named_modules(remove_duplicate=False), *whole)
