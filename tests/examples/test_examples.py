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
import torch

from fxfeat.cli import main as run_command

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def load_main(name: str) -> Callable[..., Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


def test_every_example_is_tested():
    tested = {"list_names", "mask_rcnn_fpn", "resnet50_pyramid", "third_party_model", "train_detector"}
    tested |= {"ablate_blocks", "patch_activations", "steer_features"}
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


def test_ablate_blocks(capsys):
    moved = load_main("ablate_blocks")()
    assert moved["layer3.1"] > 0.05 > moved["layer4.1"]  # what comes behind the last block is its mean anyway
    assert capsys.readouterr().out.count("#") > 40


def test_steer_features(capsys):
    _, after = load_main("steer_features")()
    assert after > 0.9
    assert "self.replacements[0](input)" in capsys.readouterr().out


def test_patch_activations():
    restored = load_main("patch_activations")()
    assert restored[-1] == pytest.approx([0, 0, 0, 0, 0, 0, 0, 1], abs=1e-4)


def test_mask_rcnn_fpn(capsys):
    load_main("mask_rcnn_fpn")()
    printed = capsys.readouterr().out
    assert "loss_mask" in printed
    assert "nan" not in printed
    assert "strides [4, 8, 16, 32, 64], anchors ((32,), (64,), (128,), (256,), (512,))" in printed
    assert "(100, 1, 128, 160)" in printed


def test_train_detector_draws_what_it_finds(tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    precision = load_main("train_detector")(steps=2, output=tmp_path / "shapes.png", test_images=8)
    assert 0 <= precision <= 1
    assert "levels of strides [4, 8, 16, 32], of [48, 64, 96] channels in the model" in capsys.readouterr().out
    with image.open(tmp_path / "shapes.png") as picture:
        assert picture.size == (4 * (3 * 96 + 6) + 6, 2 * (3 * 96 + 6) + 6)


def test_train_detector_measures_precision():
    measure = runpy.run_path(str(EXAMPLES / "train_detector.py"))["measure_precision"]
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 2])}, {"boxes": boxes[:1], "labels": torch.tensor([3])}]

    def guess(found, labels, scores):
        return {"boxes": found, "labels": torch.tensor(labels), "scores": torch.tensor(scores)}

    nothing = guess(torch.zeros(0, 4), [], [])
    assert measure([guess(boxes, [1, 2], [0.9, 0.8]), guess(boxes[:1], [3], [0.7])], targets) == 1
    assert measure([nothing, nothing], targets) == 0
    # Class 1 is found, and again at a lower score, which costs nothing; class 2 is found after a miss; class 3 is not.
    twice = guess(boxes[[0, 0, 0, 1]], [1, 1, 2, 2], [0.9, 0.8, 0.7, 0.6])
    assert measure([twice, nothing], targets) == pytest.approx((1 + 0.5 + 0) / 3)


@pytest.mark.zoo
def test_train_detector_learns(tmp_path):
    assert load_main("train_detector")(output=tmp_path / "shapes.png") >= 0.5


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
