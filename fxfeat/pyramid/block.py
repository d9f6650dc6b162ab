"""A block of a flat model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from fxfeat.ir.module_call import ModuleCall


@dataclass(frozen=True)
class Block:
    """One call of a repeated block, and the map that it gave."""

    module_call: ModuleCall
    node: fx.Node
