"""Each stage imports the ones before it and none after, from record to cli."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fxfeat

ROOT = Path(fxfeat.__file__).parent
STAGES = ("errors", "record", "name", "select", "rewrite", "report", "emit")
ORDER = (*STAGES, "stride", "pyramid", "backbone", "detection", "cli")
FILES = sorted(ROOT.rglob("*.py"))


def stage_of(path: Path) -> str | None:
    first = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return first if first in ORDER else None


STAGE_FILES = [path for path in FILES if stage_of(path)]
each_file = pytest.mark.parametrize("path", STAGE_FILES, ids=lambda path: str(path.relative_to(ROOT)))


def imports_of(source: str) -> Iterator[str]:
    """Yield the dotted names of everything that a file imports, anywhere in it, but not for type checking alone."""
    tree = ast.parse(source)
    typing_only = {
        held
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in node.body
        for held in ast.walk(inner)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def later_stages(stage: str, source: str) -> list[str]:
    """List the imports of a stage's file that reach a later stage."""
    later = ORDER[ORDER.index(stage) + 1 :]
    return [name for name in imports_of(source) if name.startswith("fxfeat.") and name.split(".")[1] in later]


@each_file
def test_no_stage_imports_a_later_one(path):
    stage = stage_of(path)
    assert stage is not None
    assert later_stages(stage, path.read_text()) == []


@each_file
def test_no_stage_imports_the_public_functions(path):
    if stage_of(path) in ("report", "pyramid", "detection", "cli"):
        return
    public = {"fxfeat.api", "fxfeat.create_feature_extractor", "fxfeat.get_graph_node_names", "fxfeat.verify", "fxfeat"}
    homes = public - {"fxfeat"}
    assert [name for name in imports_of(path.read_text()) if name in public or name.rpartition(".")[0] in homes] == []


def test_all_stages_are_there():
    assert {stage_of(path) for path in FILES} >= {"errors", "record", "name", "select", "rewrite", "emit"}


def test_errors_import_nothing_of_ours():
    assert not [name for name in imports_of((ROOT / "errors.py").read_text()) if name.startswith("fxfeat")]


def test_the_check_finds_what_it_looks_for():
    assert later_stages("record", "def f():\n    from fxfeat.emit.emit import emit\n") == ["fxfeat.emit.emit.emit"]
    assert later_stages("name", "import fxfeat.select.features\n") == ["fxfeat.select.features"]
    assert later_stages("emit", "from fxfeat.record.run import record\nfrom fxfeat.errors import FxfeatError\n") == []
