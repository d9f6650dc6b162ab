"""Folders import the ones before them and none after, from the data to the command; so do files within a folder."""

from __future__ import annotations

import ast
import collections
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

import fxfeat

ROOT = Path(fxfeat.__file__).parent
DATA = ("errors", "ir", "runtime", "inputs", "isolation", "analysis")
PIPELINE = ("guards", "trace", "names", "opening", "passes", "codegen", "eager", "api", "deploy")
VISION = ("vision", "stride", "pyramid", "backbone", "detection")
ORDER = (*DATA, *PIPELINE, *VISION, "report", "cli")
DOORS = ("__init__.py", "__main__.py")
FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.name not in DOORS)
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def folder_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(source: str) -> Iterator[str]:
    """Yield the dotted names of everything that a file imports, anywhere in it, also for type checking alone."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def later_folders(folder: str, source: str) -> list[str]:
    """List the imports of a file that reach a later folder, or the public functions by their front door."""
    later = {*ORDER[ORDER.index(folder) + 1 :], *fxfeat.__all__}
    ours = [name for name in imports_of(source) if name.split(".")[0] == "fxfeat"]
    return [name for name in ours if name == "fxfeat" or name.split(".")[1] in later]


def module_of(path: Path) -> str:
    return ".".join(("fxfeat", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


@each_file
def test_no_folder_imports_a_later_one(path):
    assert later_folders(folder_of(path), path.read_text()) == []


def test_every_folder_has_its_place():
    assert {folder_of(path) for path in FILES} == set(ORDER)


def test_no_files_import_each_other_in_a_circle():
    modules = {module_of(path): path for path in FILES}
    drawn = nx.DiGraph()
    for module, path in modules.items():
        for name in imports_of(path.read_text()):
            source = name if name in modules else name.rpartition(".")[0]
            if source in modules:
                drawn.add_edge(module, source)
    assert list(nx.simple_cycles(drawn)) == []


def test_no_two_files_have_one_name():
    names = collections.Counter(path.name for path in FILES if path.name not in DOORS)
    assert [name for name, count in names.items() if count > 1] == []


def test_loose_files_are_the_front_door():
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py", "api.py", "errors.py"}


def test_the_check_finds_what_it_looks_for():
    late = "def f():\n    from fxfeat.codegen.emit import emit\n"
    assert later_folders("trace", late) == ["fxfeat.codegen.emit.emit"]
    assert later_folders("names", "import fxfeat.passes.outline\n") == ["fxfeat.passes.outline"]
    assert (
        later_folders("codegen", "from fxfeat.trace.run import record\nfrom fxfeat.errors import FxfeatError\n") == []
    )
    assert later_folders("stride", "from fxfeat import verify\n") == ["fxfeat.verify"]
