"""Which of two maps is of the lower resolution."""

from __future__ import annotations

from fxfeat.vision.layout import Layout

DROP = 1.5
"""A map is of a lower resolution than another if along some axis its scale is at least this many times the other's."""


def is_drop(before: Layout, after: Layout) -> bool:
    """Say whether one map is of a lower resolution than another, along any axis."""
    return any(now >= DROP * then for then, now in zip(before.scale, after.scale, strict=True))
