"""Inputs of one shape, which may be one tensor: code that asks ``context is x`` goes by that."""

from __future__ import annotations

from torch import fx

from fxfeat.ir.draft import Draft
from fxfeat.ir.node_meta import TensorMeta, meta_of
from fxfeat.ir.recording import Recording


def has_same_tensor(recording: Recording) -> bool:
    """Say whether two inputs are tensors of one shape and dtype."""
    return bool(_find_same_tensor(recording.graph))


def join_same_tensor(draft: Draft) -> Draft:
    """Use the first of inputs of one shape wherever another of them is used, but for checks of each.

    This changes the draft's own graph, which a rewrite made.
    """
    for other, first in _find_same_tensor(draft.graph).items():
        other.replace_all_uses_with(first, delete_user_cb=lambda user: user.target is not isinstance)
    return draft


def _find_same_tensor(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Map inputs to the first one of their shape."""
    first: dict[TensorMeta, fx.Node] = {}
    joined: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        measured = meta_of(node).value if node.op == "placeholder" else None
        if isinstance(measured, TensorMeta) and first.setdefault(measured, node) is not node:
            joined[node] = first[measured]
    return joined
