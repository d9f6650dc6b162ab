"""Run a recorded graph on real tensors, node by node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from fxfeat.inputs.examples import bind
from fxfeat.ir.example import Example
from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import Build, map_structure

Visit = Callable[[fx.Node, Any], Any]
Key = tuple[str, int, str, int]
"""What tells a node in two recordings: its module's path, which call of it, what it calls, which of those."""


def replay(recording: Recording, example: Example, visit: Visit) -> None:
    """Run every node of a recording.

    Args:
        recording: the recording; its root is called for modules and read for tensors.
        example: the inputs.
        visit: is given each node and its value, and returns the value to go on with.
    """
    values: dict[fx.Node, Any] = {}
    given = bind(recording.root, example).arguments
    last: dict[fx.Node, fx.Node] = {}
    for node in recording.graph.nodes:
        last.update(dict.fromkeys(node.all_input_nodes, node))
    for node in recording.graph.nodes:
        value = given[str(node.target).lstrip("*")] if node.op == "placeholder" else _run(recording, node, values)
        values[node] = visit(node, value)
        for source in node.all_input_nodes:
            if last[source] is node:
                del values[source]


def _run(recording: Recording, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    args, kwargs = _valued((node.args, dict(node.kwargs)), values)
    target: Any = node.target
    if node.op == "get_attr":
        return _reach(recording, str(target))
    if node.op == "call_module":
        return recording.root.get_submodule(str(target))(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], target)(*args[1:], **kwargs)
    return target(*args, **kwargs)


def _valued(arguments: Any, values: dict[fx.Node, Any]) -> Any:
    """Put values in place of nodes, and what is to be built in place of how."""

    def value_of(part: Any) -> Any:
        if isinstance(part, fx.Node):
            return values[part]
        return part.factory(**_valued(dict(part.fields), values)) if isinstance(part, Build) else part

    return map_structure(arguments, value_of)


def _reach(recording: Recording, path: str) -> Any:
    if path in recording.tensors:
        return recording.tensors[path]
    held: Any = recording.root
    for part in path.split(".") if path else ():
        held = held._modules[part] if part in getattr(held, "_modules", {}) else getattr(held, part)
    return held


def key_nodes(recording: Recording) -> dict[fx.Node, Key]:
    """Give each node a key that a changed model's recording has too."""
    counts: dict[tuple[str, int, str], int] = {}
    keys: dict[fx.Node, Key] = {}
    for node in recording.graph.nodes:
        module_call = recording.module_calls[meta_of(node).module_call]
        target = str(node.target) if node.op != "call_function" else _called(node)
        place = (module_call.path, module_call.call, target)
        counts[place] = counts.get(place, -1) + 1
        keys[node] = (*place, counts[place])
    return keys


_DENSE_NAMES = {"convolve": "conv", "pool_max": "max_pool", "pool_average": "avg_pool", "leave_out": "avg_pool"}


def _called(node: fx.Node) -> str:
    name = getattr(node.target, "__name__", str(node.target))
    known = name.removesuffix("1d").removesuffix("2d").removesuffix("3d")
    return _DENSE_NAMES.get(name, known)
