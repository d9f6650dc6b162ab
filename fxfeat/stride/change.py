"""One change of one call: the window it has, and the window it gets."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from fxfeat.stride.windows import Window


@dataclass(frozen=True)
class Change:
    """A node whose window is to be another one.

    ``dropped`` marks one that is to return its input, ``computed`` one before which the model pads by what it works
    out from the stride.
    """

    node: fx.Node
    before: Window
    after: Window
    dropped: bool = False
    computed: bool = False

    def agrees(self, other: Change) -> bool:
        """Say whether another call is to change in the same way."""
        return (self.before, self.after, self.dropped) == (other.before, other.after, other.dropped)
