"""Tell which nodes of two recordings, of a model and of a changed one, are the same calls."""

from __future__ import annotations

from torch import fx

from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.recording import Recording

Key = tuple[str, int, str, int]
"""What tells a node in two recordings: its module's path, which call of it, what it calls, which of those."""

_DENSE_NAMES = {"convolve": "conv", "pool_max": "max_pool", "pool_average": "avg_pool", "leave_out": "avg_pool"}


def key_nodes(recording: Recording) -> dict[fx.Node, Key]:
    """Give each node a key that a changed model's recording has too."""
    counts: dict[tuple[str, int, str], int] = {}
    keys: dict[fx.Node, Key] = {}
    for node in recording.graph.nodes:
        module_call = recording.module_calls[meta_of(node).module_call]
        target = str(node.target) if node.op != "call_function" else _spell_function(node)
        place = (module_call.path, module_call.call, target)
        counts[place] = counts.get(place, -1) + 1
        keys[node] = (*place, counts[place])
    return keys


def _spell_function(node: fx.Node) -> str:
    name = getattr(node.target, "__name__", str(node.target))
    plain = name.removesuffix("1d").removesuffix("2d").removesuffix("3d")
    return _DENSE_NAMES.get(name, plain)
