"""What an optimization did, as a rich table."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from fxfeat.deploy.optimization import Optimization
from fxfeat.report.tables import make_table

_MILLI = 1000


def render_optimization(report: Optimization) -> RenderableType:
    """Show each step, the time before and after, and how far each feature is from what it was.

    Args:
        report: what ``extractor.optimize`` returned beside the extractor.

    Returns:
        Something that ``rich.print`` prints.

    Example:
        >>> from fxfeat.deploy.optimization import Step
        >>> report = Optimization((Step("2 norms folded", True),), 0.004, 0.002, {"map": 1e-7})
        >>> print(str(report).splitlines()[-1])
        4.00 ms before, 2.00 ms after: 0.50 of the time
    """
    steps = make_table("step", "kept", "note")
    for step in report.steps:
        steps.add_row(Text(step.what), Text("yes" if step.kept else "no"), Text(step.why))
    values = make_table("key", "max|a-b| / max|a|")
    for key, difference in report.differences.items():
        values.add_row(Text(key), Text(f"{difference:.3g}"))
    before, after = report.seconds_before * _MILLI, report.seconds_after * _MILLI
    return Group(steps, values, Text(f"{before:.2f} ms before, {after:.2f} ms after: {report.ratio:.2f} of the time"))
