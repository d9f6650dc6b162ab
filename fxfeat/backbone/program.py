"""Emitted code that runs on a model's own modules, in one version for each mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fxfeat.codegen.extractor import compile_source
from fxfeat.errors import FxfeatError
from fxfeat.ir.emission import Emission, Source

Version = Source | FxfeatError


@dataclass
class Program:
    """The source of a function from inputs to a dict of values, by mode; compiled when first run."""

    versions: dict[bool, Version]
    _compiled: dict[bool, Callable[..., Any]] = field(default_factory=dict, repr=False)

    def run(self, root: nn.Module, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Run the version for the root's mode.

        Raises:
            FxfeatError: where that mode could not be recorded or split.
        """
        training = root.training
        if training not in self._compiled:
            self._compiled[training] = compile_source(self.source(training))
        values: dict[str, Any] = self._compiled[training](root, *args, **kwargs)
        return values

    def source(self, training: bool) -> Source:
        """Return the source for a mode."""
        version = self.versions[training]
        if isinstance(version, FxfeatError):
            raise version
        return version

    def __getstate__(self) -> dict[str, Any]:
        return {"versions": self.versions, "_compiled": {}}


def plant_constants(root: nn.Module, emission: Emission) -> None:
    """Give the root the tensors that emitted code carries, because no module holds them."""
    for name, tensor in emission.constants.items():
        object.__setattr__(root, name, tensor)
