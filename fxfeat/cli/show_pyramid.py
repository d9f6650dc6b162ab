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
from fxfeat.pyramid.features_only import describe_level, features_only
from fxfeat.pyramid.search import LevelSearch, search_levels
from fxfeat.report.spelled_shapes import spell_shape
from fxfeat.report.tables import make_table
from fxfeat.trace.run import describe_example
from fxfeat.trace.setup import Setup, read_setup
from fxfeat.vision.example_arguments import as_example_inputs
from fxfeat.vision.layout import Layout

Row = tuple[dict[str, Any], Layout]


def show_pyramid(model: nn.Module, inputs: Any, options: argparse.Namespace, width: int | None = None) -> Outcome:
    """List a model's levels: where each is, its size, and why it was chosen."""
    setup = read_setup(model.eval(), None, None, inputs, options.engine)
    search = search_levels(setup)
    rows = _choose_rows(search, setup, options)
    if options.json:
        return Outcome(_write_json(model, search.flat, rows, describe_head(setup)))
    recorded = f"recorded with {describe_example(setup.examples[0])}"
    kind = "flat: blocks at one resolution" if search.flat else "hierarchical"
    summary = f"{type(model).__name__}, {kind}; {_describe_layouts(rows)}; {recorded}"
    return Outcome(Group(_render(rows), Text(summary, style="dim"), Text(describe_head(setup), style="dim")))


def _choose_rows(search: LevelSearch, setup: Setup, options: argparse.Namespace) -> list[Row]:
    """List all levels, or those that ``features_only`` returns where something is asked of it."""
    if options.out_indices is None and options.output_stride is None and options.strides is None:
        batch = search.maps.extent.batch
        return [(describe_level(level, batch, "NCHW"), level.layout) for level in search.levels]
    example = as_example_inputs(setup.examples[0])
    pyramid = features_only(
        setup.model,
        options.out_indices,
        options.output_stride,
        strides=options.strides,
        example_inputs=example,
        engine=options.engine,
    )
    return [(pyramid.feature_info[index], pyramid.layouts[index]) for index in pyramid.feature_info.out_indices]


def _render(rows: list[Row]) -> RenderableType:
    table = make_table("index", "reduction", "channels", "shape", "module", "why")
    for level, _ in rows:
        numbers = (level["index"], level["reduction"], level["num_chs"])
        table.add_row(*map(str, numbers), spell_shape(level["shape"]), Text(level["module"]), Text(level["why"]))
    return table


def _describe_layouts(rows: list[Row]) -> str:
    orders = ", ".join(dict.fromkeys(layout.order for _, layout in rows))
    prefixes = sorted({layout.prefix for _, layout in rows} - {0})
    count = " or ".join(map(str, prefixes))
    tokens = f", {count} prefix {'token' if prefixes == [1] else 'tokens'}" if prefixes else ""
    return f"works in {orders}{tokens}"


def _write_json(model: nn.Module, flat: bool, rows: list[Row], head: str) -> str:
    listed = ",\n".join(f"  {json.dumps(_to_json(*row))}" for row in rows)
    about = f'"model": {json.dumps(type(model).__name__)}, "flat": {json.dumps(flat)}, "head": {json.dumps(head)}'
    return f'{{{about}, "levels": [\n{listed}\n]}}'


def _to_json(level: dict[str, Any], layout: Layout) -> dict[str, Any]:
    return {
        "index": level["index"],
        "reduction": level["reduction"],
        "channels": level["num_chs"],
        "shape": list(level["shape"]),
        "module": level["module"],
        "layout": layout.order,
        "prefix_tokens": layout.prefix,
        "why": level["why"],
    }
