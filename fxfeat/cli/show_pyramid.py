"""``fxfeat pyramid``: a model's feature maps."""

from __future__ import annotations

import argparse
import json
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text
from torch import nn

from fxfeat.backbone.head import describe_head
from fxfeat.cli.usage import Outcome
from fxfeat.pyramid.levels import Level
from fxfeat.pyramid.search import LevelSearch, search_levels
from fxfeat.report.spelled_shapes import spell_shape
from fxfeat.report.tables import make_table
from fxfeat.trace.run import describe_example
from fxfeat.trace.setup import read_setup


def show_pyramid(model: nn.Module, inputs: Any, options: argparse.Namespace, width: int | None = None) -> Outcome:
    """List a model's levels: where each is, its size, and why it was chosen."""
    setup = read_setup(model.eval(), None, None, inputs)
    search = search_levels(setup)
    if options.json:
        return Outcome(_write_json(model, search, describe_head(setup)))
    recorded = f"recorded with {describe_example(setup.examples[0])}"
    kind = "flat: blocks at one resolution" if search.flat else "hierarchical"
    summary = f"{type(model).__name__}, {kind}; {_describe_layouts(search)}; {recorded}"
    return Outcome(Group(_render(search), Text(summary, style="dim"), Text(describe_head(setup), style="dim")))


def _render(search: LevelSearch) -> RenderableType:
    table = make_table("index", "reduction", "channels", "shape", "module", "why")
    for level in search.levels:
        shape = (search.maps.extent.batch, level.layout.channels, *level.layout.grid)
        numbers = (level.index, level.reduction, level.layout.channels)
        table.add_row(*map(str, numbers), spell_shape(shape), Text(level.module), Text(level.why))
    return table


def _describe_layouts(search: LevelSearch) -> str:
    orders = ", ".join(dict.fromkeys(level.layout.order for level in search.levels))
    prefixes = sorted({level.layout.prefix for level in search.levels} - {0})
    count = " or ".join(map(str, prefixes))
    tokens = f", {count} prefix {'token' if prefixes == [1] else 'tokens'}" if prefixes else ""
    return f"works in {orders}{tokens}"


def _write_json(model: nn.Module, search: LevelSearch, head: str) -> str:
    rows = ",\n".join(f"  {json.dumps(_to_json(level, search.maps.extent.batch))}" for level in search.levels)
    about = (
        f'"model": {json.dumps(type(model).__name__)}, "flat": {json.dumps(search.flat)}, "head": {json.dumps(head)}'
    )
    return f'{{{about}, "levels": [\n{rows}\n]}}'


def _to_json(level: Level, batch: int) -> dict[str, Any]:
    layout = level.layout
    return {
        "index": level.index,
        "reduction": level.reduction,
        "channels": layout.channels,
        "shape": [batch, layout.channels, *layout.grid],
        "module": level.module,
        "layout": layout.order,
        "prefix_tokens": layout.prefix,
        "why": level.why,
    }
