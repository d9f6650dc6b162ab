"""Run the passes in order and measure what each added and removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fxfeat.rewrite.draft import Draft
from fxfeat.rewrite.outline import outline
from fxfeat.rewrite.pin import pin
from fxfeat.rewrite.prune import prune
from fxfeat.rewrite.snapshot import snapshot

Pass = Callable[[Draft], Draft]

PASSES: tuple[Pass, ...] = (outline, prune, snapshot, pin)


@dataclass(frozen=True)
class Step:
    """What one pass did to the graph."""

    name: str
    before: int
    after: int


def rewrite(draft: Draft, passes: tuple[Pass, ...] = PASSES) -> tuple[Draft, tuple[Step, ...]]:
    """Apply each pass in turn, checking the graph after each.

    Raises:
        RuntimeError: where a pass left a graph that does not hold together; this is a bug of fxfeat.
    """
    steps: list[Step] = []
    for apply in passes:
        before = len(draft.graph.nodes)
        draft = apply(draft)
        draft.graph.lint()
        steps.append(Step(getattr(apply, "__name__", str(apply)), before, len(draft.graph.nodes)))
    return draft, tuple(steps)
