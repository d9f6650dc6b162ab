"""``fxfeat pyramid``."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Result

SOURCE = """
from torch import nn

def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1))
"""

TABLE = f"""\
index   reduction   channels   shape            module   why
{"─" * 129}
0       2           4          (2, 4, 16, 16)   1        goes into 2, the outermost module that holds this one drop in \
resolution
1       4           8          (2, 8, 8, 8)     2        the last map of the lowest resolution before the head
Sequential, hierarchical; works in NCHW; recorded with ((2, 3, 32, 32) float32)
features are '2' (2, 8, 8, 8), the last value with positions before the pooling; no classifier was found: the scores \
come from Conv2d '2'
"""


@pytest.fixture
def small(folder):
    (folder / "small.py").write_text(SOURCE)
    return ("pyramid", "small.py:small", "--input-shape", "2,3,32,32")


def stripped(result: Result) -> str:
    return "".join(f"{line.rstrip()}\n" for line in result.out.splitlines())


def test_table(run, small):
    result = run(*small)
    assert (result.code, result.err) == (0, "")
    assert stripped(result) == TABLE


def test_json(run, small):
    said = json.loads(run(*small, "--json").out)
    assert (said["model"], said["flat"], len(said["levels"])) == ("Sequential", False, 2)
    assert said["head"].startswith("features are '2' (2, 8, 8, 8), the last value with positions before the pooling;")
    assert said["levels"][0] == {
        "index": 0,
        "reduction": 2,
        "channels": 4,
        "shape": [2, 4, 16, 16],
        "module": "1",
        "layout": "NCHW",
        "prefix_tokens": 0,
        "why": "goes into 2, the outermost module that holds this one drop in resolution",
    }


def test_no_levels(run, folder):
    result = run("pyramid", "torch.nn:Linear", "--arg", "in_features=4", "--arg", "out_features=3")
    assert result.code == 2
    assert result.err.startswith("fxfeat: A feature pyramid needs an image (N, C, H, W), ")


def test_wrong_option(run, small):
    assert run(*small, "--jsn") == Result(
        2,
        "",
        "fxfeat: fxfeat pyramid has no option '--jsn'; it has --json, --out-indices, --strides, "
        "--output-stride, --engine, --arg, --input-shape, --debug. Did you mean '--json'?\n",
    )


@pytest.mark.parametrize(("asked", "indices"), (("0", [0]), ("1,0", [1, 0]), ("=-1", [1]), ("0,-1", [0, 1])))
def test_some_levels(run, small, asked, indices):
    given = (f"--out-indices{asked}",) if asked.startswith("=") else ("--out-indices", asked)
    said = json.loads(run(*small, "--json", *given).out)
    assert [level["index"] for level in said["levels"]] == indices


def test_a_limited_stride(run, folder):
    (folder / "deep.py").write_text(
        SOURCE.replace("nn.AdaptiveAvgPool2d(1)", "nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1)")
    )
    given = ("pyramid", "deep.py:small", "--input-shape", "2,3,32,32", "--json", "--output-stride", "4")
    levels = json.loads(run(*given).out)["levels"]
    assert max(level["reduction"] for level in levels) == 4
    assert levels[-1]["shape"] == [2, 8, 8, 8]


def test_no_indices(run, small):
    result = run(*small, "--out-indices", "last")
    assert result.code == 2
    assert result.err == (
        "fxfeat: argument --out-indices: 'last' are no indices; write numbers as in --out-indices 1,2. Type: fxfeat "
        "pyramid --help\n"
    )


@pytest.mark.parametrize(("asked", "reductions"), (("2", [2]), ("4,2", [4, 2]), ("2x2,4", [2, 4])))
def test_levels_of_some_strides(run, small, asked, reductions):
    said = json.loads(run(*small, "--json", "--strides", asked).out)
    assert [level["reduction"] for level in said["levels"]] == reductions


def test_no_strides(run, small):
    result = run(*small, "--strides", "4,x")
    assert result.code == 2
    assert result.err == (
        "fxfeat: argument --strides: '4,x' are no strides; write numbers as in --strides 4,8. Type: fxfeat pyramid "
        "--help\n"
    )


def test_indices_and_strides(run, small):
    result = run(*small, "--strides", "4", "--out-indices", "1")
    assert result.err == "fxfeat: Pass out_indices= or strides=, not both: each chooses the levels.\n"


@pytest.mark.parametrize("engine", ("auto", "code", "tap"))
def test_a_pyramid_of_each_engine(run, small, engine):
    levels = json.loads(run(*small, "--json", "--engine", engine).out)["levels"]
    assert levels == json.loads(run(*small, "--json").out)["levels"]
