"""A block of a flat model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from fxfeat.ir.module_call import ModuleCall


@dataclass(frozen=True)
class Block:
    """One call of a repeated block, and the map that it gave; or the last call of several parts that are its own.

    ``container`` holds those parts, and is not called itself.
    """

    module_call: ModuleCall
    node: fx.Node
    container: str | None = None

    @property
    def path(self) -> str:
        """Return the path of the module that holds the whole block."""
        return self.module_call.path if self.container is None else self.container
