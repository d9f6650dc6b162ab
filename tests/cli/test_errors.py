"""Every failure is one line on stderr, and nothing on stdout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fxfeat.cli import main
from fxfeat.cli.arguments import COMMANDS, _known_options
from tests.cli.conftest import Result

FORMS = "torchvision:NAME, timm:NAME, package.module:CALLABLE or path/to/file.py:CALLABLE"
OPTIONS = "--flat, --depth, --grep, --json, --arg, --input-shape, --mode, --debug"
SHAPE = ("--input-shape", "2,3,8,8")

WRONG = {
    "no command": ((), "which command? There are nodes, code, verify, pyramid. Type: fxfeat --help"),
    "another command": (
        ("node", "tiny.py:Tiny"),
        "there is no command 'node'; the commands are nodes, code, verify, pyramid. Did you mean 'nodes' or 'code'? "
        "Type: fxfeat --help",
    ),
    "no model": (("nodes",), "the following arguments are required: MODEL. Type: fxfeat nodes --help"),
    "another option": (
        ("nodes", "tiny.py:Tiny", "--flta"),
        f"fxfeat nodes has no option '--flta'; it has {OPTIONS}. Did you mean '--flat'?",
    ),
    "too much": (
        ("nodes", "tiny.py:Tiny", "conv"),
        "fxfeat nodes takes one MODEL, so 'conv' has no place. Type: fxfeat nodes --help",
    ),
    "depth": (
        ("nodes", "tiny.py:Tiny", "--depth", "0"),
        "argument --depth: '0' is no depth; write a number from 1, as in --depth 2. Type: fxfeat nodes --help",
    ),
    "no name": (
        ("code", "tiny.py:Tiny", "--nodes", ","),
        "argument --nodes: ',' holds no name; write names as in --nodes layer1,layer2. Type: fxfeat code --help",
    ),
    "no source": (
        ("nodes", "resnet18"),
        f"MODEL is 'resnet18'; write {FORMS}. Did you mean 'torchvision:resnet18' or 'torchvision:resnet152' or "
        "'torchvision:resnet101'?",
    ),
    "another torchvision model": (
        ("nodes", "torchvision:resnet81"),
        "torchvision has no model 'resnet81'. Did you mean 'resnet18' or 'resnet152' or 'resnet101'?",
    ),
    "another torchvision argument": (
        ("nodes", "torchvision:resnet18", "--arg", "num_clases=3"),
        "torchvision:resnet18 --arg num_clases=3 cannot be built: TypeError: ResNet.__init__() got an unexpected "
        "keyword argument 'num_clases'. Did you mean 'num_classes' or 'norm_layer'?",
    ),
    "another file": (("nodes", "tinny.py:Tiny"), "there is no file 'tinny.py'. Did you mean 'tiny.py'?"),
    "another callable": (
        ("nodes", "tiny.py:Tinny"),
        "'tiny.py:Tinny': there is no 'Tinny' in tiny.py. Did you mean 'Tiny'?",
    ),
    "another module": (
        ("nodes", "torchvison.models:resnet18"),
        f"there is no Python module 'torchvison' here. Did you mean 'torchvision'? MODEL is {FORMS}.",
    ),
    "file without suffix": (
        ("nodes", "./tiny:Tiny"),
        f"there is no Python module './tiny' here. For a file, write ./tiny.py:CALLABLE. MODEL is {FORMS}.",
    ),
    "no callable": (
        ("nodes", "tiny.py:SIZE"),
        "tiny.py:SIZE is an int; it must be a model, or a function or class that gives one.",
    ),
    "no module": (("nodes", "tiny.py:number"), "tiny.py:number returned an int; it must return a torch.nn.Module."),
    "argument to a model": (
        ("nodes", "tiny.py:made", "--arg", "width=3"),
        "tiny.py:made is a model already, so it takes no --arg. Leave --arg out.",
    ),
    "another argument": (
        ("nodes", "tiny.py:Tiny", "--arg", "widht=3"),
        "tiny.py:Tiny takes no argument 'widht'; it takes width. Did you mean 'width'?",
    ),
    "argument without value": (
        ("nodes", "tiny.py:Tiny", "--arg", "width"),
        "--arg is 'width'; write it as KEY=VALUE, as in --arg num_classes=10.",
    ),
    "argument left out": (
        ("nodes", "torch.nn:Linear", "--arg", "in_features=3"),
        "torch.nn:Linear needs out_features. Add --arg out_features=VALUE.",
    ),
    "argument of a wrong kind": (
        ("nodes", "tiny.py:Tiny", "--arg", "width=-1"),
        "tiny.py:Tiny --arg width=-1 cannot be built: RuntimeError: Trying to create tensor with negative "
        "dimension -1: [-1, 3, 3, 3].",
    ),
    "shape": (
        ("nodes", "tiny.py:Tiny", "--input-shape", "2,3,a"),
        "--input-shape is '2,3,a'; write sizes with commas between them, as in 2,3,224,224.",
    ),
    "dtype": (
        ("nodes", "tiny.py:Tiny", "--input-shape", "2,3:int46"),
        "--input-shape is '2,3:int46', but 'int46' is none of float16, bfloat16, float32, float64, complex64, int32, "
        "int64, uint8, bool. Did you mean 'int64' or 'uint8' or 'int32'?",
    ),
    "a shape that does not fit": (
        ("nodes", "tiny.py:Tiny", "--input-shape", "2,4,8,8"),
        "Tiny could not be recorded in eval mode with inputs ((2, 4, 8, 8) float32): RuntimeError: Given groups=1, "
        "weight of size [4, 3, 3, 3], expected input[2, 4, 8, 8] to have 3 channels, but got 4 channels instead. If it "
        "needs other inputs, pass example_inputs=. Here that is --input-shape, as in --input-shape 2,3,224,224.",
    ),
    "nothing found": (
        ("nodes", "tiny.py:Tiny", "--grep", "cnov", *SHAPE),
        "no name of tiny.py:Tiny holds 'cnov'. Did you mean 'conv'? Type: fxfeat nodes tiny.py:Tiny --flat",
    ),
    "another name": (
        ("code", "tiny.py:Tiny", "--nodes", "cnov", *SHAPE),
        "Tiny has no node or module 'cnov' in eval mode. Did you mean 'conv'? fxfeat.get_graph_node_names(model) lists "
        "all 7 names. Type: fxfeat nodes tiny.py:Tiny",
    ),
    "a name of the other mode": (
        ("verify", "tiny.py:Tiny", "--nodes", "add", *SHAPE),
        "Tiny has no node or module 'add' in eval mode. fxfeat.get_graph_node_names(model) lists all 7 names. "
        "In train mode there is one: --mode train. Type: fxfeat nodes tiny.py:Tiny",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_usage(run, case):
    arguments, message = WRONG[case]
    assert run(*arguments) == Result(2, "", f"fxfeat: {message}\n")


def test_timm_model(run):
    pytest.importorskip("timm")
    message = "timm has no model 'convnext_tinny'. Did you mean 'convnext_tiny' or 'convnextv2_tiny' or"
    code, out, err = run("nodes", "timm:convnext_tinny")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"fxfeat: {message}")


def test_a_file_that_cannot_be_imported(run, folder):
    (folder / "broken.py").write_text("import nosuch\n")
    message = "fxfeat: 'broken.py' cannot be imported: ModuleNotFoundError: No module named 'nosuch'.\n"
    assert run("nodes", "broken.py:Tiny") == Result(2, "", message)


def test_debug_shows_the_traceback(run):
    code, out, err = run("nodes", "tiny.py:Tinny", "--debug")
    assert (code, out) == (2, "")
    assert err.startswith("Traceback (most recent call last):")
    assert err.endswith("fxfeat: 'tiny.py:Tinny': there is no 'Tinny' in tiny.py. Did you mean 'Tiny'?\n")


def test_interrupt_is_quiet(run):
    assert run("nodes", "tiny.py:Interrupted", "--input-shape", "2,4") == Result(130, "", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_options_named_in_errors_are_those_of_the_help(run, command):
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert {word.strip("[],") for word in out.split() if word.startswith("[--")} <= set(_known_options(command))
    assert all(option in out for option in _known_options(command))


def test_command_as_a_process(folder):
    environment = {**os.environ, "PYTHONPATH": str(Path(main.__code__.co_filename).parents[2])}
    command = [sys.executable, "-m", "fxfeat", "nodes", "tiny.py:Tiny", "--json", *SHAPE]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, '{"model": "Tiny", "parameters": 142, "modes": {')
    assert set(done.stderr.splitlines()) == {"noise on stdout"}


def test_reader_that_stops_is_no_error(folder):
    environment = {**os.environ, "PYTHONPATH": str(Path(main.__code__.co_filename).parents[2])}
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "fxfeat", "nodes", "tiny.py:words"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
