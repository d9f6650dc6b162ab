"""Other sizes are tried only where opened code was told something of the inputs that is no tensor."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision
import transformers
from torch import nn
from torch.overrides import _get_current_function_mode_stack

import fxfeat
from fxfeat.trace import run

SIZES = (2, 1, 3, 5, 8)


@contextmanager
def counting() -> Iterator[dict[str, int]]:
    """Count recordings, and convolutions that run without a recorder."""
    counts = {"recordings": 0, "eager": 0}
    record, convolve = run.run_once, nn.Conv2d._conv_forward

    def counted(*args: Any) -> Any:
        counts["recordings"] += 1
        return record(*args)

    def convolved(self: nn.Conv2d, given: torch.Tensor, *rest: Any) -> torch.Tensor:
        counts["eager"] += not _get_current_function_mode_stack()
        return convolve(self, given, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run_once", counted)
        patch.setattr(nn.Conv2d, "_conv_forward", convolved)
        yield counts


STAGES: dict[str, tuple[list[str], int]] = {
    "resnet50": (["layer1", "layer2", "layer3", "layer4"], 1),
    "convnext_tiny": (["features.1", "features.3", "features.5", "features.7"], 1),
    "swin_t": (["features.1", "features.3", "features.5", "features.7"], 2),
    "vit_b_16": (["encoder.layers.encoder_layer_3", "encoder.layers.encoder_layer_11"], 2),
    "mobilenet_v3_large": (["features.3", "features.6", "features.12"], 1),
    "densenet121": (["features.denseblock1", "features.denseblock4"], 2),
    "fcn_resnet50": (["backbone.layer2", "backbone.layer4"], 2),
}
"""Stages of models, and how many recordings they take: one, or one a mode where the code reads the mode.

ViT's own code goes by the batch, which is varied once, and FCN's by height and width, which are varied apart as well.
"""


@pytest.mark.parametrize("name", STAGES)
def test_how_many_recordings_stages_take(name: str) -> None:
    backbone = {"weights_backbone": None} if name.startswith("fcn") else {}
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None, **backbone)
    nodes, recordings = STAGES[name]
    with counting() as counts:
        fxfeat.create_feature_extractor(model, nodes)
    assert counts == {"recordings": recordings, "eager": 0}


SMALL = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
OTHERS: dict[str, tuple[Callable[[], nn.Module], list[str], int]] = {
    "Bert": (lambda: transformers.BertModel(transformers.BertConfig(**SMALL)), ["encoder.layer.0"], 8),
    "ViT": (lambda: transformers.ViTModel(transformers.ViTConfig(image_size=32, **SMALL)), ["layers.0"], 8),
    "Llama": (lambda: transformers.LlamaModel(transformers.LlamaConfig(**SMALL)), ["layers.0"], 8),
    "Unet": (lambda: smp.Unet("resnet18", encoder_weights=None), ["encoder.layer2", "decoder.blocks.2"], 4),
    "FPN": (lambda: smp.FPN("resnet18", encoder_weights=None), ["encoder.layer2", "decoder.p3"], 7),
}
"""Models whose opened code is told sizes or dtypes, and how many recordings they take.

Each takes one a mode; one at other sizes for each group of sizes that is varied, BERT's and Llama's batch and length;
three in other dtypes where the code reads one, as all of transformers' does to make its masks, and ViT's one more with
inputs of another dtype, which it casts; and one in the other mode, at other sizes and in another dtype at once.
"""


@pytest.mark.parametrize("name", OTHERS)
def test_how_many_recordings_models_take_whose_code_is_told_more(name: str) -> None:
    make, nodes, recordings = OTHERS[name]
    with counting() as counts:
        fxfeat.create_feature_extractor(make().eval(), nodes)
    assert counts == {"recordings": recordings, "eager": 0}


def test_code_that_was_told_a_size_is_recorded_at_others() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 4, 3), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.relu(self.conv(x).view(x.size(0), -1))

    with counting() as counts:
        extractor = fxfeat.create_feature_extractor(Flat(), ["relu"], example_inputs=torch.rand(2, 3, 8, 8))
    assert counts["recordings"] > 1
    assert extractor(torch.rand(3, 3, 9, 12))["relu"].shape == (3, 4 * 7 * 10)


# -- ways by which a size reaches opened code -------------------------------------------------------------------------

SHARED: dict[str, int] = {"rows": 0}


class LeavesAttribute(nn.Module):
    def forward(self, x: torch.Tensor, log: list[int]) -> torch.Tensor:
        self.rows = x.shape[0]
        return x * 1


class AppendsToList(nn.Module):
    def forward(self, x: torch.Tensor, log: list[int]) -> torch.Tensor:
        log.append(len(x))
        return x * 1


class MarksTensor(nn.Module):
    def forward(self, x: torch.Tensor, log: list[int]) -> torch.Tensor:
        y = x * 1
        y.rows = x.shape[0]  # type: ignore[attr-defined]
        return y


class SetsGlobal(nn.Module):
    def forward(self, x: torch.Tensor, log: list[int]) -> torch.Tensor:
        SHARED["rows"] = x.shape[0]
        return x * 1


class ReturnsNumber(nn.Module):
    def forward(self, x: torch.Tensor, log: list[int]) -> tuple[torch.Tensor, int]:
        return x * 1, min(x.shape[0], 4)


class ReturnsOtherRank(nn.Module):
    def forward(self, x: torch.Tensor, log: list[int]) -> torch.Tensor:
        return x * 1 if x.shape[0] < 4 else (x * 1)[None]


class ReturnsFlag(nn.Module):
    def forward(self, x: torch.Tensor, log: list[int]) -> tuple[torch.Tensor, bool]:
        return x * 1, x.shape[0] > 3


def _rows_of(child: nn.Module, y: Any, log: list[int]) -> int:
    if isinstance(y, tuple):
        return y[1] * 4 if y[1] is True else y[1]
    return next((n for n in (getattr(child, "rows", 0), *log, getattr(y, "rows", 0), SHARED["rows"]) if n), 0)


class Parent(nn.Module):
    """Takes another way where the rows that a child tells of are many."""

    def __init__(self, child: nn.Module) -> None:
        super().__init__()
        self.child, self.out = child, nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        SHARED["rows"] = 0
        log: list[int] = []
        y = self.child(x, log)
        rows, y = _rows_of(self.child, y, log), y[0] if isinstance(y, tuple) else y
        if y.dim() == 3:
            y = y[0] * 3
        return self.out(y * 2 if rows > 3 else y)


TELLING: list[Callable[[], nn.Module]] = [
    *(LeavesAttribute, AppendsToList, MarksTensor, SetsGlobal),
    *(ReturnsNumber, ReturnsOtherRank, ReturnsFlag),
]


@pytest.mark.parametrize("telling", TELLING)
def test_what_a_child_tells_is_guarded_or_the_value_is_right(telling: Callable[[], nn.Module]) -> None:
    model = Parent(telling()).eval()
    assert_right_or_guarded(model, "out")


def assert_right_or_guarded(model: nn.Module, name: str) -> None:
    """Compare with a hook at several sizes; a GuardError is right too."""
    extractor = fxfeat.create_feature_extractor(model, [name], example_inputs=torch.rand(2, 4))
    for rows in SIZES:
        x, seen = torch.rand(rows, 4), {}
        handle = model.get_submodule(name).register_forward_hook(lambda _, __, y, seen=seen: seen.update(y=y.clone()))
        model(x.clone())
        handle.remove()
        try:
            value = extractor(x.clone())[name]
        except fxfeat.GuardError:
            continue
        assert torch.equal(value, seen["y"]), rows


class RaisesWhereManyRows(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > 3:
            raise ValueError("too many rows")
        return x * 1


def test_an_error_that_a_child_raises_by_size() -> None:
    class Catching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.child, self.out = RaisesWhereManyRows(), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                x = self.child(x)
            except ValueError:
                x = x * 7
            return self.out(x)

    with pytest.warns(UserWarning, match="an error that other inputs may raise is caught"):
        assert_right_or_guarded(Catching().eval(), "out")


class WritesWhereManyRows(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > 3:
            x.mul_(3)
        return x + 1


class GivesBackWhereManyRows(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.shape[0] > 3 else x.clone()


@pytest.mark.parametrize("child", [WritesWhereManyRows, GivesBackWhereManyRows])
def test_memory_that_a_child_touches_by_size(child: type[nn.Module]) -> None:
    class Touching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.child, self.out = nn.Linear(4, 4), child(), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.before(x)
            z = self.child(y)
            z.add_(1)
            return self.out(y + z)

    for name in ("before", "out"):
        assert_right_or_guarded(Touching().eval(), name)


def test_a_number_from_a_clock_is_no_constant() -> None:
    class Timed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(x * time.perf_counter())

    with pytest.raises(fxfeat.TraceError, match="does something else each time"):
        fxfeat.create_feature_extractor(Timed(), ["out"], example_inputs=torch.rand(2, 4), engine="code")


TICKS = itertools.count(1)


def test_a_number_from_an_iterator_is_no_constant() -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(x * next(TICKS) * 1 * 2 * 3)

    with pytest.raises(fxfeat.TraceError, match="does something else each time"):
        fxfeat.create_feature_extractor(Counted(), ["out"], example_inputs=torch.rand(2, 4), engine="code")
