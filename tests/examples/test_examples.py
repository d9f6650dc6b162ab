"""Run every example, and every snippet of README.md, as a reader would."""

import contextlib
import io
import re
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fxfeat.cli import main as run_command

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def load_main(name: str) -> Callable[..., Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


def test_every_example_is_tested():
    tested = {"list_names", "mask_rcnn_fpn", "resnet50_pyramid", "third_party_model"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


def test_list_names(capsys):
    load_main("list_names")("resnet18", "layer4")
    printed = capsys.readouterr().out
    assert "layer4.1.relu_1" in printed
    assert "avgpool = self.avgpool(x)" in printed
    assert "layer3.0.conv1" not in printed


def test_third_party_model(capsys):
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    load_main("third_party_model")()
    assert capsys.readouterr().out.count("equal bit for bit: 3 of 3") == 2


def test_mask_rcnn_fpn(capsys):
    load_main("mask_rcnn_fpn")()
    printed = capsys.readouterr().out
    assert "loss_mask" in printed
    assert "nan" not in printed
    assert "(100, 1, 128, 160)" in printed


def test_resnet50_pyramid_draws_the_default_photo(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    path = load_main("resnet50_pyramid")(output=tmp_path / "maps" / "pyramid.png")
    with image.open(path) as picture:
        width, height = picture.size
        colours = picture.convert("RGB").getcolors(maxcolors=width * height)
    assert width > 1000
    assert len(colours) > 10_000
    assert max(count for count, _ in colours) < 0.5 * width * height


def test_resnet50_pyramid_draws_a_photo_of_any_shape(tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.radial_gradient("L").resize((90, 160)).save(tmp_path / "photo.png")
    path = load_main("resnet50_pyramid")(tmp_path / "photo.png", tmp_path / "maps.png")
    assert path.stat().st_size > 10_000


def trim(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def test_readme_python_prints_what_it_says():
    blocks = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", README, re.DOTALL)
    assert len(blocks) > 5
    namespace: dict[str, Any] = {"__name__": "readme"}
    for source, expected in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(source, namespace)
        assert trim(printed.getvalue()) == trim(expected), source


@pytest.mark.parametrize(
    ("command", "expected"), re.findall(r"```console\n\$ fxfeat (.*?)\n(.*?)```", README, re.DOTALL)
)
def test_readme_command_prints_what_it_says(command, expected, capsys):
    assert run_command(shlex.split(command)) == 0
    assert trim(capsys.readouterr().out) == trim(expected)
