"""Run recorded calls again, on other values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from fxfeat.inputs.examples import bind
from fxfeat.ir.example import Example
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import Build, map_structure

Visit = Callable[[fx.Node, Any], Any]


def replay(recording: Recording, example: Example, visit: Visit) -> None:
    """Run every node of a recording.

    Args:
        recording: the recording; its root is called for modules and read for tensors.
        example: the inputs.
        visit: is given each node and its value, and returns the value to go on with.
    """
    values: dict[fx.Node, Any] = {}
    given = bind(recording.root, example).arguments
    last = {source: node for node in recording.nodes for source in node.all_input_nodes}
    for node in recording.nodes:
        value = given[str(node.target).lstrip("*")] if node.op == "placeholder" else _run(recording, node, values)
        values[node] = visit(node, value)
        for source in (source for source in node.all_input_nodes if last[source] is node):
            del values[source]


def _run(recording: Recording, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    target = str(node.target)
    if node.op == "get_attr":
        return read_attribute(recording, target)
    if node.op == "call_module":
        return run_call(node, values.__getitem__, recording.root.get_submodule(target))
    return run_call(node, values.__getitem__)


def run_call(node: fx.Node, value_of: Callable[[fx.Node], Any], call: Callable[..., Any] | None = None) -> Any:
    """Call what a node calls on other values.

    Args:
        node: calls a function or a method, or whatever is given for it.
        value_of: returns the value of each node that it reads.
        call: what to call in place of the node's own function.
    """
    args, kwargs = _valued((node.args, dict(node.kwargs)), value_of)
    if call is not None:
        return call(*args, **kwargs)
    target: Any = node.target
    return getattr(args[0], target)(*args[1:], **kwargs) if node.op == "call_method" else target(*args, **kwargs)


def _valued(arguments: Any, value_of: Callable[[fx.Node], Any]) -> Any:
    """Put values in place of nodes, and what is to be built in place of how."""

    def change(part: Any) -> Any:
        if isinstance(part, fx.Node):
            return value_of(part)
        return part.factory(**_valued(dict(part.fields), value_of)) if isinstance(part, Build) else part

    return map_structure(arguments, change)


def read_attribute(recording: Recording, path: str) -> Any:
    """Read what a ``get_attr`` node of a recording reads."""
    if path in recording.tensors:
        return recording.tensors[path]
    owner: Any = recording.root
    for part in path.split(".") if path else ():
        owner = owner._modules[part] if part in getattr(owner, "_modules", {}) else getattr(owner, part)
    return owner
