"""Run the passes in order and measure what each added and removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fxfeat.ir.draft import Draft
from fxfeat.passes.clone_overwritten import clone_overwritten
from fxfeat.passes.eliminate_dead_code import eliminate_dead_code
from fxfeat.passes.guard_inputs import guard_inputs
from fxfeat.passes.outline import outline

Pass = Callable[[Draft], Draft]

PASSES: tuple[Pass, ...] = (outline, eliminate_dead_code, clone_overwritten, guard_inputs)


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
