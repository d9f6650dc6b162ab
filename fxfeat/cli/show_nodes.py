"""``fxfeat nodes``: the names of a model's nodes."""

from __future__ import annotations

import argparse
import json
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text
from torch import nn

from fxfeat.cli.usage import Outcome, UsageError, suggest
from fxfeat.report.node_tree import (
    NodeRow,
    cut_rows,
    list_rows,
    matches,
    render_flat,
    render_tree,
    search_rows,
    to_json,
)
from fxfeat.trace.run import describe_example
from fxfeat.trace.setup import Setup, read_setup, record_mode

_MODES = {"train": ("train",), "eval": ("eval",), "both": ("eval", "train")}
Rows = tuple[NodeRow, ...]


def show_nodes(model: nn.Module, inputs: Any, options: argparse.Namespace, width: int | None = None) -> Outcome:
    """List a model's names as a tree, flat or as JSON.

    Args:
        model: the model.
        inputs: what to record it with; None to work it out.
        options: what the user typed.
        width: how wide a line may be; None for as wide as it takes.

    Raises:
        UsageError: where no name is left to show.
    """
    setup = read_setup(model, None, None, inputs)
    rows_by_mode = {mode: list_rows(record_mode(setup, mode == "train")) for mode in _MODES[options.mode]}
    picked = {mode: _pick(rows, options) for mode, rows in rows_by_mode.items()}
    if not any(picked.values()):
        raise UsageError(_explain_nothing(rows_by_mode, options))
    if options.json:
        return Outcome(_write_json(model, picked))
    return Outcome(Group(*_render_modes(model, picked, options, width), _summarize(setup, rows_by_mode, picked)))


def _pick(rows: Rows, options: argparse.Namespace) -> Rows:
    if options.depth is not None:
        rows = cut_rows(rows, options.depth)
    if options.grep is not None:
        rows = search_rows(rows, options.grep)
    if not (options.flat or options.json):
        return rows
    return tuple(row for row in rows if _is_wanted(row, options))


def _is_wanted(row: NodeRow, options: argparse.Namespace) -> bool:
    """Leave out the modules that only hold what is listed too."""
    if options.grep is not None and not matches(options.grep, row.name):
        return False
    return row.listed or options.json or row.name.count(".") + 1 == options.depth


def _explain_nothing(rows_by_mode: dict[str, Rows], options: argparse.Namespace) -> str:
    names = [row.name for rows in rows_by_mode.values() for row in rows]
    if not names or options.grep is None:
        return f"{options.model} has no nodes in {options.mode} mode."
    parts = dict.fromkeys([*names, *(name.rpartition(".")[2] for name in names)])
    up_to = "" if options.depth is None else f" up to --depth {options.depth}"
    way_out = f"Type: fxfeat nodes {options.model} --flat"
    return f"no name of {options.model}{up_to} holds {options.grep!r}.{suggest(options.grep, parts)} {way_out}"


def _write_json(model: nn.Module, picked: dict[str, Rows]) -> str:
    modes = ",\n".join(f"{json.dumps(mode)}: [\n{_write_rows(rows)}\n]" for mode, rows in picked.items())
    return f'{{"model": {json.dumps(type(model).__name__)}, "parameters": {_count(model)}, "modes": {{\n{modes}\n}}}}'


def _write_rows(rows: Rows) -> str:
    """Write one name a line, so that line-by-line tools can read it too."""
    return ",\n".join(f"  {json.dumps(row, default=str)}" for row in to_json(rows))


def _render_modes(
    model: nn.Module, picked: dict[str, Rows], options: argparse.Namespace, width: int | None
) -> list[RenderableType]:
    groups = list(picked.items())
    if len(groups) == 2 and groups[0][1] == groups[1][1]:
        groups = [("train and eval", groups[0][1])]
    titled = [(f"{type(model).__name__}, {mode} mode", rows) for mode, rows in groups]
    if not options.flat:
        return [render_tree(title, rows, width) for title, rows in titled]
    if len(titled) == 1:
        return [render_flat(titled[0][1], width)]
    return [Group(Text(title, style="bold"), render_flat(rows, width)) for title, rows in titled]


def _summarize(setup: Setup, rows_by_mode: dict[str, Rows], picked: dict[str, Rows]) -> Text:
    counts = [
        _count_names(rows, picked[mode], mode if len(rows_by_mode) > 1 else "") for mode, rows in rows_by_mode.items()
    ]
    inputs = describe_example(setup.examples[0])
    return Text(f"{', '.join(counts)}; {_count(setup.model):,} parameters; recorded with {inputs}", style="dim")


def _count_names(every: Rows, picked: Rows, mode: str) -> str:
    total, shown = (sum(row.listed for row in rows) for rows in (every, picked))
    count = f"{total} names" if shown == total else f"{shown} of {total} names"
    return f"{count} in {mode} mode" if mode else count


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
