"""The comparison of an extractor with hooks, as a rich table."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from fxfeat.eager.verify import Verification, VerifiedRow
from fxfeat.report.spelled_shapes import NOTHING, spell_dtype, spell_shape
from fxfeat.report.tables import make_table


def render_verification(verification: Verification) -> RenderableType:
    """Show how each feature compares, then the verdict.

    Example:
        >>> import fxfeat, torch
        >>> from fxfeat import verify
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3))
        >>> extractor = fxfeat.create_feature_extractor(model, ["0"])
        >>> renderable = render_verification(verify(model, extractor, torch.rand(2, 4)))

    Args:
        verification: what ``fxfeat.verify`` returned.

    Returns:
        Something that ``rich.print`` prints.
    """
    noted = any(row.note for row in verification.rows)
    table = make_table("key", "name", "shape", "dtype", "equal", "max |diff|", *(["note"] if noted else []))
    for row in verification.rows:
        table.add_row(*_cells(row), *([Text(row.note)] if noted else []))
    return Group(table, _judge(verification))


def _cells(row: VerifiedRow) -> list[Text]:
    verdict = Text("yes", style="green") if row.equal else Text("no", style="bold red")
    shown = [Text(row.key), Text(row.name), Text(spell_shape(row.shape)), Text(spell_dtype(row.dtype))]
    return [*shown, verdict, Text(_spell_difference(row.max_abs_diff))]


def _spell_difference(difference: float | None) -> str:
    return NOTHING if difference is None else f"{difference:.3g}"


def _judge(verification: Verification) -> Text:
    total = len(verification.rows)
    wrong = sum(not row.equal for row in verification.rows)
    if verification.ok:
        return Text(f"equal bit for bit: {total} of {total}", style="green")
    return Text(f"NOT equal: {wrong} of {total}", style="bold red")
