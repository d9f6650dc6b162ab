"""Lines of cells under each other, aligned where the terminal is wide enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

_STYLES = ("cyan", "green", "", "magenta")
_GAP = "  "
_WIDEST = 40
_WIDEST_IN_FILES = 80


@dataclass(frozen=True)
class Line:
    """A label that starts ``indent`` characters in, and the cells that follow it; the last is a number."""

    label: str
    indent: int
    cells: tuple[str, ...]
    style: str = ""


def measure_lines(lines: Sequence[Line], width: int | None) -> tuple[int, ...] | None:
    """Say how wide each column must be, or None where that is more than ``width``."""
    label = max((line.indent + cell_len(line.label) for line in lines), default=0)
    widest = _WIDEST_IN_FILES if width is None else _WIDEST
    columns = zip(*(line.cells for line in lines), strict=True)
    widths = (label, *(min(widest, max(map(cell_len, column))) for column in columns))
    total = sum(widths) + len(_GAP) * (len(widths) - 1)
    return widths if width is None or total <= width else None


def lay_out(line: Line, widths: tuple[int, ...] | None) -> Text:
    """Write a line: aligned to ``widths``, or with its cells right after each other for want of room."""
    text = Text(line.label, style=line.style, overflow="fold")
    if widths is None:
        cells = [cell for cell in line.cells if cell != "-"]
    else:
        text.pad_right(widths[0] - line.indent - cell_len(line.label))
        cells = _pad(line.cells, widths[1:])
    styles = _STYLES if widths is not None else ("",) * len(_STYLES)
    for cell, style in zip(cells, styles, strict=False):
        text.append(_GAP).append(cell, style=style)
    return text


def _pad(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    shown = [_clip(cell, width) for cell, width in zip(cells, widths, strict=True)]
    *left, number = shown
    return [*(cell.ljust(width) for cell, width in zip(left, widths, strict=False)), number.rjust(widths[-1])]


def _clip(cell: str, width: int) -> str:
    return cell if cell_len(cell) <= width else cell[: width - 3] + "..."
