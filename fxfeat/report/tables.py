"""The one look that all tables have."""

from __future__ import annotations

from rich import box
from rich.table import Table


def make_table(*columns: str) -> Table:
    """Start a table whose cells fold, so that a narrow terminal hides nothing."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
