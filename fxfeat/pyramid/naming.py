"""The name to ask for a value by: that of the outermost module that returned it, else the operation's own."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from fxfeat.ir.module_call import ModuleCall
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import spell
from fxfeat.names.table import NameTable


def name_value(
    recording: Recording,
    node: fx.Node,
    table: NameTable,
    suits: Callable[[ModuleCall], bool] = lambda call: True,
) -> str | None:
    """Name a value as ``create_feature_extractor`` understands it; None where it has no name.

    Args:
        recording: of the model.
        node: the value.
        table: the recording's names.
        suits: says whether a module's call may lend its name.
    """
    module_calls = [call for call in recording.module_calls[1:] if suits(call)]
    found = next((call for call in module_calls if call.result is node), None)
    if found is not None:
        return _name_span(table, found)
    # The first of what a module returns in a tuple, a dict or a dataclass is what the module is for.
    found = next((call for call in module_calls if call.result_nodes and call.result_nodes[0][1] is node), None)
    if found is not None:
        return _name_span(table, found) + spell(found.result_nodes[0][0])
    own = next((name for name, held in table.nodes.items() if held is node), None)
    return own or _name_element(recording, node, table)


def _name_element(recording: Recording, node: fx.Node, table: NameTable) -> str | None:
    for module_call in recording.module_calls:
        steps = next((steps for steps, held in module_call.result_nodes if held is node), None)
        if steps is not None:
            return (_name_span(table, module_call) if module_call.path else "output") + spell(steps)
    return None


def _name_span(table: NameTable, module_call: ModuleCall) -> str:
    calls = table.module_calls[module_call.path]
    if len(calls) == 1:
        return module_call.path
    return f"{module_call.path}@{next(index for index, held in enumerate(calls) if held is module_call)}"
