"""The results as a Markdown file."""

from __future__ import annotations

from pathlib import Path

from tests.zoo.result import Result
from tests.zoo.table import every_model, sheets, versions

BRIEF = """\
# Coverage, in brief

Written by `python -m tests.zoo --brief`. With {versions}.

For each model, every module that returns a tensor is asked for, all at once, and one of them alone, in eval mode and
in train mode, under the same random state as an eager run with forward hooks that clone; then all again with three
rows. *Recorded*: an extractor of all modules was made in each mode in which the model runs. *Equal*: bit for bit.
*Guard errors*: runs at another size that the extractor refused.
"""

INTRODUCTION = """\
# Coverage

Written by `python -m tests.zoo`. With {versions}.

For each model, every module that returns a tensor is asked for, all at once, and one of them alone, in eval mode and
in train mode, under the same random state as an eager run with forward hooks that clone; then all again with one row,
three rows, larger images and longer sequences, where the model itself takes them. *Recorded*: an extractor of all
modules was made in each mode in which the model runs. *Equal*: bit for bit. *Guard errors*: runs at another size that
the extractor refused.

torchvision's extractor is given every module name that it takes, one nesting level at a time, since it gives each node
to one name only; in the last column, all names at once. Where it cannot trace a model as it stands, the arguments that
the example leaves out are fixed by `concrete_args`.
"""


def write_report(path: Path, results: list[Result], missing: list[str], brief: bool) -> None:
    """Write the tables of what was measured, and name what was not."""
    introduction = BRIEF if brief else INTRODUCTION
    tables = [sheet.markdown() for sheet in (*sheets(results), every_model(results))]
    path.parent.mkdir(parents=True, exist_ok=True)
    left = [f"Not measured in this run: {', '.join(missing)}."] if missing else []
    path.write_text("\n\n".join([introduction.format(versions=versions(results)).strip(), *tables, *left]) + "\n")
