"""The name to ask for a value by: that of the outermost module that returned it, else the operation's own."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from fxfeat.name.table import NameTable
from fxfeat.record.recording import Recording, Span
from fxfeat.record.structure import spell


def name_value(
    recording: Recording, node: fx.Node, table: NameTable, suits: Callable[[Span], bool] = lambda span: True
) -> str | None:
    """Name a value as ``create_feature_extractor`` understands it; None where it has no name.

    Args:
        recording: of the model.
        node: the value.
        table: the recording's names.
        suits: says whether a module's call may lend its name.
    """
    spans = [span for span in recording.spans[1:] if suits(span)]
    found = next((span for span in spans if span.result is node), None)
    if found is not None:
        return _name_span(table, found)
    # The first of what a module returns in a tuple, a dict or a dataclass is what the module is for.
    found = next((span for span in spans if span.leaves and span.leaves[0][1] is node), None)
    if found is not None:
        return _name_span(table, found) + spell(found.leaves[0][0])
    own = next((name for name, held in table.nodes.items() if held is node), None)
    return own or _name_element(recording, node, table)


def _name_element(recording: Recording, node: fx.Node, table: NameTable) -> str | None:
    for span in recording.spans:
        steps = next((steps for steps, held in span.leaves if held is node), None)
        if steps is not None:
            return (_name_span(table, span) if span.path else "output") + spell(steps)
    return None


def _name_span(table: NameTable, span: Span) -> str:
    calls = table.spans[span.path]
    if len(calls) == 1:
        return span.path
    return f"{span.path}@{next(index for index, held in enumerate(calls) if held is span)}"
