"""What is imported when: the front door lists everything and loads what is asked for."""

from __future__ import annotations

import ast
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import fxfeat
from fxfeat.cli.arguments import COMMANDS

NEWLY = "import json, sys; print(json.dumps(sorted(set(sys.modules) - before)))"


def run_python(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules: list[str] = json.loads(done.stdout.splitlines()[-1])
    return modules


def packages_of(modules: list[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules} - sys.stdlib_module_names


def test_import_loads_a_list_of_names_alone():
    modules = run_python(f"import sys; before = set(sys.modules); import fxfeat; {NEWLY}")
    assert [name for name in modules if name.startswith("fxfeat")] == ["fxfeat", "fxfeat.ir", "fxfeat.ir.shown"]
    assert packages_of(modules) == {"fxfeat"}


def test_the_two_functions_need_nothing_but_torch():
    names = "create_feature_extractor, get_graph_node_names, verify"
    modules = run_python(
        "import sys, torch, torchvision\n"
        "from torch.fx.experimental.proxy_tensor import make_fx\n"
        "before = set(sys.modules)\n"
        f"from fxfeat import {names}\n"
        "create_feature_extractor(torch.nn.Sequential(torch.nn.Linear(2, 3)), ['0'], example_inputs=torch.ones(1, 2))\n"
        f"{NEWLY}"
    )
    assert packages_of(modules) - {"torch"} == {"fxfeat"}


@pytest.mark.parametrize("words", [["--help"], *([command, "--help"] for command in COMMANDS), ["node"], []])
def test_help_and_wrong_usages_need_no_torch(words):
    modules = run_python(f"import sys; before = set(); from fxfeat.cli import main; main({words!r}); {NEWLY}")
    assert packages_of(modules) & {"torch", "torchvision", "numpy", "rich", "networkx"} == set()


def test_the_lists_of_public_names_agree():
    source = ast.parse(Path(fxfeat.__file__).read_text())
    typed = {
        alias.name: node.module
        for branch in source.body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == fxfeat._MODULES
    assert sorted(typed) == sorted(fxfeat.__all__)


def test_dir_lists_what_is_not_loaded_yet():
    modules = run_python("import sys; before = set(); import fxfeat; print(__import__('json').dumps(dir(fxfeat)))")
    assert set(fxfeat.__all__) <= set(modules)


def test_everything_by_a_star():
    names: dict[str, object] = {}
    exec("from fxfeat import *", names)
    assert names.keys() - {"__builtins__"} == set(fxfeat.__all__)


def test_folders_are_there_without_an_import():
    assert fxfeat.detection.faster_rcnn.__module__ == "fxfeat.detection.detectors"
    assert fxfeat.stride.limit_stride.__module__ == "fxfeat.stride.limit"


@pytest.mark.parametrize("name", ["no_such", "_no_such", "__no_such__"])
def test_a_name_that_is_not_there(name):
    with pytest.raises(AttributeError) as caught:
        getattr(fxfeat, name)
    assert str(caught.value) == f"module 'fxfeat' has no attribute {name!r}"


def test_unpickled_elsewhere_it_is_shown_as_here(tmp_path):
    extractor = fxfeat.create_feature_extractor(nn.Sequential(nn.Linear(2, 3)), ["0"], example_inputs=torch.ones(1, 2))
    path = tmp_path / "extractor.pickle"
    path.write_bytes(pickle.dumps(extractor))
    shown = run_python(
        f"import json, pickle; extractor = pickle.load(open({str(path)!r}, 'rb')); print(json.dumps([repr(extractor)]))"
    )
    assert shown == [repr(extractor)]
    assert "parameters: 9 before, 9 after (100.0% kept)" in shown[0]
