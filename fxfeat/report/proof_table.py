"""The proof of a limited stride, as a rich table."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from fxfeat.report.spelled_shapes import NOTHING
from fxfeat.report.tables import make_table
from fxfeat.stride.proof import Proof


def render_proof(proof: Proof) -> RenderableType:
    """List the operations that make a difference, then the verdict.

    Example:
        >>> from fxfeat.stride import Proof
        >>> print(Proof(8, 90, 40, (), 0.0))
        output stride 8: 90 values compared, 40 of them denser
        every denser map, subsampled, is the original's

    Args:
        proof: what ``fxfeat.stride.prove`` returned.

    Returns:
        Something that ``rich.print`` prints.
    """
    head = f"output stride {proof.output_stride}: {proof.compared} values compared, {proof.dense} of them denser"
    verdict = Text(f"{head}\n{_judge(proof)}", style="green" if proof.ok else "yellow")
    if not proof.breaks:
        return verdict
    table = make_table("operation", "max |diff|", "matters to", "why it differs")
    for broken in proof.breaks:
        difference = NOTHING if broken.max_abs_diff is None else f"{broken.max_abs_diff:.3g}"
        where = "denser maps" if broken.inside else "the head"
        table.add_row(Text(broken.name), Text(difference), Text(where), Text(broken.reason))
    return Group(table, verdict)


def _judge(proof: Proof) -> str:
    if proof.ok:
        return "every denser map, subsampled, is the original's"
    count = sum(broken.inside for broken in proof.breaks)
    return (
        f"denser maps differ through {count} operations; behind the original's values of these, all are the original's"
    )
