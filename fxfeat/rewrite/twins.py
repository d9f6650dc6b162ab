"""Inputs of one shape, which may be one tensor: code that asks ``context is x`` goes by that."""

from __future__ import annotations

from torch import fx

from fxfeat.record.recording import Recording, TensorFacts, facts
from fxfeat.rewrite.draft import Draft


def has_twins(recording: Recording) -> bool:
    """Say whether two inputs are tensors of one shape and dtype."""
    return bool(_find_twins(recording.graph))


def join_twins(draft: Draft) -> Draft:
    """Use the first of inputs of one shape wherever another of them is used, but for checks of each.

    This changes the draft's own graph, which a rewrite made.
    """
    for twin, first in _find_twins(draft.graph).items():
        twin.replace_all_uses_with(first, delete_user_cb=lambda user: user.target is not isinstance)
    return draft


def _find_twins(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Map inputs to the first one of their shape."""
    first: dict[TensorFacts, fx.Node] = {}
    found: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        known = facts(node).value if node.op == "placeholder" else None
        if isinstance(known, TensorFacts) and first.setdefault(known, node) is not node:
            found[node] = first[known]
    return found
