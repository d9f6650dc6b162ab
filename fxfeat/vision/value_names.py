"""The names of values: to ask for them by, and to tell them by in messages."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from fxfeat.ir.module_call import ModuleCall
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import spell
from fxfeat.names.table import NameTable, name_nodes


def name_value(
    recording: Recording,
    node: fx.Node,
    table: NameTable,
    suits: Callable[[ModuleCall], bool] = lambda call: True,
) -> str | None:
    """Name a value as ``create_feature_extractor`` understands it; None where it has no name.

    It is the name of the outermost module that returned the value, else the operation's own.

    Args:
        recording: of the model.
        node: the value.
        table: the recording's names.
        suits: says whether a module's call may lend its name.
    """
    module_calls = [call for call in recording.module_calls[1:] if suits(call)]
    returning = next((call for call in module_calls if call.result is node), None)
    if returning is not None:
        return _name_call(table, returning)
    # The first of what a module returns in a tuple, a dict or a dataclass is what the module is for.
    returning = next((call for call in module_calls if call.result_nodes and call.result_nodes[0][1] is node), None)
    if returning is not None:
        return _name_call(table, returning) + spell(returning.result_nodes[0][0])
    own = next((name for name, named in table.nodes.items() if named is node), None)
    return own or _name_element(recording, node, table)


def _name_element(recording: Recording, node: fx.Node, table: NameTable) -> str | None:
    for module_call in recording.module_calls:
        steps = next((steps for steps, leaf in module_call.result_nodes if leaf is node), None)
        if steps is not None:
            return (_name_call(table, module_call) if module_call.path else "output") + spell(steps)
    return None


def _name_call(table: NameTable, module_call: ModuleCall) -> str:
    calls = table.module_calls[module_call.path]
    if len(calls) == 1:
        return module_call.path
    return f"{module_call.path}@{next(index for index, call in enumerate(calls) if call is module_call)}"


def name_operation(recording: Recording, node: fx.Node) -> str:
    """Name a node as ``get_graph_node_names`` does, else by what it calls."""
    names = {named: name for name, named in name_nodes(recording).nodes.items()}
    return names.get(node, str(node.target))
