"""``fxfeat nodes``."""

from __future__ import annotations

import json

from tests.cli.conftest import Result

SHAPE = ("--input-shape", "2,3,8,8")

TREE = """\
Tiny, eval mode  operation   output        dtype    parameters
├── x            input       (2, 3, 8, 8)  float32           -
├── conv         Conv2d      (2, 4, 6, 6)  float32         112
├── body         Sequential  (2, 4, 6, 6)  float32          20
│   ├── 0        Conv2d      (2, 4, 6, 6)  float32          20
│   └── 1        ReLU        (2, 4, 6, 6)  float32           -
├── mean         mean        (2, 4)        float32           -
├── drop         Dropout     (2, 4)        float32           -
└── fc           Linear      (2, 2)        float32          10
7 names; 142 parameters; recorded with ((2, 3, 8, 8) float32)
"""


def test_tree(run):
    assert run("nodes", "tiny.py:Tiny", *SHAPE) == Result(0, TREE, "")


def test_a_model_that_is_made_already(run):
    assert run("nodes", "tiny.py:made", *SHAPE) == Result(0, TREE, "")


def test_argument_reaches_the_callable(run):
    assert "Conv2d      (2, 8, 6, 6)" in run("nodes", "tiny.py:Tiny", "--arg", "width=8", *SHAPE).out


def test_flat_lists_what_get_graph_node_names_lists(run):
    lines = run("nodes", "tiny.py:Tiny", "--flat", *SHAPE).out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["x", "conv", "body.0", "body.1", "mean", "drop", "fc"]


def test_depth_shows_the_modules_it_cuts_off_at(run):
    out = run("nodes", "tiny.py:Tiny", "--flat", "--depth", "1", *SHAPE).out
    assert [line.split()[0] for line in out.splitlines()] == ["x", "conv", "body", "mean", "drop", "fc", "5"]
    assert out.endswith("5 of 7 names; 142 parameters; recorded with ((2, 3, 8, 8) float32)\n")


def test_grep_takes_text_and_expressions(run):
    for pattern in ("y.0", r"y\.\d$"):
        out = run("nodes", "tiny.py:Tiny", "--grep", pattern, *SHAPE).out
        assert "└── body" in out and "0        Conv2d" in out and "fc" not in out


def test_flat_grep_leaves_the_modules_around_out(run):
    out = run("nodes", "tiny.py:Tiny", "--flat", "--grep", "y.0", *SHAPE).out
    assert out.splitlines()[0] == "body.0  Conv2d  (2, 4, 6, 6)  float32  20"


def test_both_modes_are_told_apart(run):
    out = run("nodes", "tiny.py:Tiny", "--mode", "both", *SHAPE).out
    evaluation, train = out.split("Tiny, train mode")
    assert "── add " in train and "── add " not in evaluation
    assert out.endswith(
        "7 names in eval mode, 8 names in train mode; 142 parameters; recorded with ((2, 3, 8, 8) float32)\n"
    )


def test_modes_that_agree_are_shown_once(run):
    assert run("nodes", "tiny.py:words", "--mode", "both").out.startswith("Sequential, train and eval mode")


def test_json_is_alone_on_stdout(run):
    said = json.loads(run("nodes", "tiny.py:Tiny", "--json", "--mode", "both", *SHAPE).out)
    assert (said["model"], said["parameters"], list(said["modes"])) == ("Tiny", 142, ["eval", "train"])
    assert said["modes"]["eval"][2] == {
        "name": "body",
        "operation": "Sequential",
        "shape": [2, 4, 6, 6],
        "dtype": "float32",
        "parameters": 20,
        "calls": 1,
        "listed": False,
    }


def test_structures_keep_their_shape(run):
    out = run("nodes", "tiny.py:Recurrent", "--flat", "--input-shape", "2,5,4").out
    assert "lstm       LSTM     ((2, 5, 3), ((1, 2, 3), (1, 2, 3)))  float32  108" in out


def test_whole_numbers_where_the_model_takes_words(run):
    assert "recorded with ((3, 5) int64)" in run("nodes", "tiny.py:words", "--input-shape", "3,5").out
    assert "recorded with ((3, 5) int32)" in run("nodes", "tiny.py:words", "--input-shape", "3,5:int32").out


def test_torchvision_model(run):
    code, out, err = run("nodes", "torchvision:resnet18", "--depth", "1")
    assert (code, err) == (0, "")
    assert "├── layer4         Sequential         (2, 512, 7, 7)     float32   8,393,728" in out
    assert "8 of 70 names; 11,689,512 parameters; recorded with ((2, 3, 224, 224) float32)" in out
