"""How a model's names print."""

from __future__ import annotations

import json

import torch
from rich.console import Console, RenderableType
from torch import nn

from fxfeat.report.node_tree import (
    NodeRow,
    cut_rows,
    list_rows,
    render_flat,
    render_tree,
    search_rows,
    to_json,
)
from fxfeat.trace.setup import read_setup, record_mode


class Shared(nn.Module):
    """Calls a block twice and reads a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.scale = nn.Parameter(torch.ones(4))
        self.layers = nn.ModuleList([nn.Linear(4, 2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block(self.block(x)) * self.scale
        return self.layers[0](x)


def rows_of(model: nn.Module, example: torch.Tensor) -> tuple[NodeRow, ...]:
    return list_rows(record_mode(read_setup(model, None, None, example), False))


def show(renderable: RenderableType, width: int) -> list[str]:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(renderable)
    return [line.rstrip() for line in captured.get().splitlines()]


ROWS = rows_of(Shared(), torch.rand(2, 4))


def test_rows_hold_nodes_modules_and_containers_in_the_order_they_ran():
    found = [(row.name, row.operation, row.parameters, row.calls, row.listed) for row in ROWS]
    assert found == [
        ("x", "input", 0, 1, True),
        ("block", "Sequential", 20, 2, False),
        ("block.0", "Linear", 20, 1, True),
        ("block.1", "ReLU", 0, 1, True),
        ("block.0_1", "Linear", 20, 1, True),
        ("block.1_1", "ReLU", 0, 1, True),
        ("scale", "parameter", 4, 1, True),
        ("mul", "mul", 0, 1, True),
        ("layers", "ModuleList", 10, 0, False),
        ("layers.0", "Linear", 10, 1, True),
    ]


def test_modules_show_what_they_returned_and_containers_nothing():
    by_name = {row.name: (row.shape, row.dtype) for row in ROWS}
    assert by_name["block"] == ((2, 4), "float32")
    assert by_name["layers"] == (None, "-")


def test_tree():
    assert show(render_tree("Shared", ROWS), 80) == [
        "Shared       operation      output  dtype    parameters",
        "├── x        input          (2, 4)  float32           -",
        "├── block    Sequential x2  (2, 4)  float32          20",
        "│   ├── 0    Linear         (2, 4)  float32          20",
        "│   ├── 1    ReLU           (2, 4)  float32           -",
        "│   ├── 0_1  Linear         (2, 4)  float32          20",
        "│   └── 1_1  ReLU           (2, 4)  float32           -",
        "├── scale    parameter      (4,)    float32           4",
        "├── mul      mul            (2, 4)  float32           -",
        "└── layers   ModuleList     -       -                10",
        "    └── 0    Linear         (2, 2)  float32          10",
    ]


def test_tree_gives_its_columns_up_where_they_do_not_fit():
    lines = show(render_tree("Shared", ROWS, 40), 40)
    assert lines[0] == "Shared"
    assert lines[2] == "├── block  Sequential x2  (2, 4)"
    assert lines[-1] == "    └── 0  Linear  (2, 2)  float32  10"


def test_flat():
    assert show(render_flat(ROWS[:3]), 80) == [
        "x        input          (2, 4)  float32   -",
        "block    Sequential x2  (2, 4)  float32  20",
        "block.0  Linear         (2, 4)  float32  20",
    ]


def test_cut_and_search():
    assert [row.name for row in cut_rows(ROWS, 1)] == ["x", "block", "scale", "mul", "layers"]
    assert [row.name for row in search_rows(ROWS, r"\.0$")] == ["block", "block.0", "layers", "layers.0"]
    assert search_rows(ROWS, "(") == ()


def test_json():
    said = json.loads(json.dumps(to_json(ROWS)))
    assert said[8] == {
        "name": "layers",
        "operation": "ModuleList",
        "shape": None,
        "dtype": None,
        "parameters": 10,
        "calls": 0,
        "listed": False,
    }


def test_long_structures_are_cut_in_the_table_only():
    class Many(nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return self.made(x)

        def __init__(self) -> None:
            super().__init__()
            self.made = Split()

    class Split(nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [x + step for step in range(20)]

    rows = rows_of(Many(), torch.rand(2, 4))
    made = next(row for row in rows if row.name == "made")
    assert made.shape == [(2, 4)] * 20
    assert "[(2, 4), (2, 4), (2, 4), (2, 4), (2, ...  float32" in "\n".join(show(render_flat((made,), 100), 100))
