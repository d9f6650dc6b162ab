"""The names of a model's nodes: as rows, as a tree, as a flat list and as JSON."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.text import Text
from rich.tree import Tree
from torch import fx, nn

from fxfeat.ir.module_call import ModuleCall
from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import map_nodes
from fxfeat.names.table import NameTable, name_nodes
from fxfeat.report.columns import Line, lay_out, measure_lines
from fxfeat.report.spelled_shapes import NOTHING, list_dtypes, list_shapes, spell_shape

_HEADINGS = ("operation", "output", "dtype", "parameters")
_GUIDE = 4


@dataclass(frozen=True)
class NodeRow:
    """One name: what runs there, what it gave, and how many parameters it holds.

    ``listed`` tells the nodes that ``get_graph_node_names`` lists from the modules around them.
    """

    name: str
    operation: str
    shape: Any
    dtype: str
    parameters: int
    calls: int
    listed: bool


def list_rows(recording: Recording) -> tuple[NodeRow, ...]:
    """List the names of a recording in the order in which they ran, each module before what it holds.

    Example:
        >>> import torch
        >>> from fxfeat.trace.setup import read_setup, record_mode
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        >>> recording = record_mode(read_setup(model, None, None, torch.rand(2, 4)), False)
        >>> [(row.name, row.operation, row.parameters) for row in list_rows(recording)]
        [('input', 'input', 0), ('0', 'Linear', 15), ('1', 'ReLU', 0)]
    """
    table = name_nodes(recording)
    modules = recording.modules
    listed = frozenset(table.listed)
    names = dict.fromkeys(part for name in _order(recording, table) for part in _prefixes(name))
    return tuple(_row(table, modules, name, name in listed) for name in names)


def _order(recording: Recording, table: NameTable) -> list[str]:
    """Order node names and module paths by when they ran; a module comes before its first node."""
    module_calls = [(call.start, 0, call.index, call.path) for call in recording.module_calls if call.path]
    nodes = [(meta_of(table.nodes[name]).position, 1, 0, name) for name in table.listed]
    return [name for *_, name in sorted(module_calls + nodes)]


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def _row(table: NameTable, modules: dict[str, nn.Module], name: str, listed: bool) -> NodeRow:
    calls = table.module_calls.get(name, ())
    measured = _measure(table.nodes[name] if listed else None, calls)
    operation, parameters = _describe(table.nodes[name] if listed else None, modules, name)
    dtype = ", ".join(list_dtypes(measured)) or NOTHING
    return NodeRow(name, operation, list_shapes(measured), dtype, parameters, 1 if listed else len(calls), listed)


def _measure(node: fx.Node | None, calls: tuple[ModuleCall, ...]) -> Any:
    if node is not None:
        return meta_of(node).value
    return map_nodes(calls[-1].result, lambda node: meta_of(node).value) if calls else None


def _describe(node: fx.Node | None, modules: dict[str, nn.Module], name: str) -> tuple[str, int]:
    """Name the operation of a node or module, and count the parameters it holds."""
    module = modules.get(name if node is None or node.op != "call_module" else str(node.target))
    if module is not None:
        return type(module).__name__, sum(parameter.numel() for parameter in module.parameters())
    if node is not None and node.op == "get_attr":
        return _describe_tensor(modules[""], str(node.target))
    return _name_operation(node), 0


def _describe_tensor(root: nn.Module, path: str) -> tuple[str, int]:
    parameter = dict(root.named_parameters(remove_duplicate=False)).get(path)
    return ("tensor", 0) if parameter is None else ("parameter", parameter.numel())


def _name_operation(node: fx.Node | None) -> str:
    if node is None:
        return NOTHING
    if node.op == "placeholder":
        return "input"
    return str(getattr(node.target, "__name__", node.target))


def cut_rows(rows: Sequence[NodeRow], depth: int) -> tuple[NodeRow, ...]:
    """Keep the names of at most ``depth`` parts."""
    return tuple(row for row in rows if len(row.name.split(".")) <= depth)


def search_rows(rows: Sequence[NodeRow], pattern: str) -> tuple[NodeRow, ...]:
    """Keep the names that hold ``pattern``, as it stands or as a regular expression, and the modules around them."""
    matching = [row.name for row in rows if matches(pattern, row.name)]
    kept = {part for name in matching for part in _prefixes(name)}
    return tuple(row for row in rows if row.name in kept)


def matches(pattern: str, name: str) -> bool:
    r"""Say whether a name holds a pattern, as it stands or as a regular expression.

    >>> matches("conv1", "layer1.0.conv1"), matches(r"conv\d$", "layer1.0.conv1"), matches("[", "lstm")
    (True, True, False)
    """
    try:
        return pattern in name or re.search(pattern, name) is not None
    except re.error:
        return False


def render_tree(title: str, rows: Sequence[NodeRow], width: int | None = None) -> Tree:
    """Draw rows as a tree; columns are aligned where they fit into ``width``.

    Args:
        title: what the root is called.
        rows: what to draw; a row without its parent hangs from the root.
        width: how many characters a line may have; None for as many as it takes.

    Returns:
        A rich tree.
    """
    lines = [_line(row, row.name.rpartition(".")[2], _GUIDE * len(row.name.split("."))) for row in rows]
    head = Line(title, 0, _HEADINGS, "bold")
    widths = measure_lines([head, *lines], width)
    tree = Tree(lay_out(head, widths) if widths else Text(title, style="bold"), guide_style="dim")
    branches: dict[str, Tree] = {"": tree}
    for row, line in zip(rows, lines, strict=True):
        above = branches.get(row.name.rpartition(".")[0], tree)
        branches[row.name] = above.add(lay_out(line, widths))
    return tree


def render_flat(rows: Sequence[NodeRow], width: int | None = None) -> Group:
    """Write rows under each other with their whole names; columns are aligned where they fit into ``width``."""
    lines = [_line(row, row.name, 0) for row in rows]
    widths = measure_lines(lines, width)
    return Group(*(lay_out(line, widths) for line in lines))


def _line(row: NodeRow, label: str, indent: int) -> Line:
    operation = row.operation if row.calls < 2 else f"{row.operation} x{row.calls}"
    parameters = f"{row.parameters:,}" if row.parameters else NOTHING
    return Line(label, indent, (operation, spell_shape(row.shape), row.dtype, parameters), "" if row.listed else "dim")


def to_json(rows: Sequence[NodeRow]) -> list[dict[str, Any]]:
    """Turn rows into what ``json.dumps`` takes, one object per name."""
    return [{**dataclasses.asdict(row), "dtype": None if row.dtype == NOTHING else row.dtype} for row in rows]
