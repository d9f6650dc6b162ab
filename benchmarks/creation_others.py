"""How long it takes to make extractors of models that torchvision cannot trace, beside ``torch.export`` and plain runs.

Part of ``python -m benchmarks.creation --others``.
"""

from __future__ import annotations

import contextlib
import copy
import statistics
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import fxfeat
from benchmarks.process_time import measure_seconds
from fxfeat.inputs.examples import guess_examples
from fxfeat.trace import run

_SMALL = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}


@dataclass(frozen=True)
class Case:
    """A model, and the modules that are asked for."""

    name: str
    make: Callable[[], nn.Module]
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """Seconds of process time, and how often opened code ran; None where something does not run."""

    name: str
    fxfeat: float
    export: float | None
    runs_on_meta: float | None
    recordings: int

    @property
    def limit(self) -> float:
        """The larger of what export and three plain runs on the meta device take."""
        return max(self.export or 0.0, self.runs_on_meta or 0.0)


def _of_transformers(model: str, config: str, *nodes: str, **options: Any) -> Case:
    import transformers

    def make() -> nn.Module:
        return getattr(transformers, model)(getattr(transformers, config)(**options))  # type: ignore[no-any-return]

    return Case(model, make, nodes)


def _of_ultralytics(name: str, *nodes: str) -> Case:
    import ultralytics

    return Case(name, lambda: ultralytics.YOLO(f"{name}.yaml").model, nodes)


def _of_smp(name: str, *nodes: str) -> Case:
    import segmentation_models_pytorch as smp

    return Case(f"smp.{name}", lambda: getattr(smp, name)("resnet18", encoder_weights=None), nodes)


def list_cases() -> list[Case]:
    """List ten models of transformers, four of ultralytics and four of segmentation_models_pytorch."""
    vit = {"image_size": 64, "patch_size": 16, **_SMALL}
    swin = {"image_size": 224, "embed_dim": 24, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8], "window_size": 7}
    gpt = {"n_embd": 64, "n_layer": 4, "n_head": 4}
    t5 = {"d_model": 64, "d_ff": 128, "num_layers": 4, "num_heads": 4, "d_kv": 16}
    return [
        _of_transformers("BertModel", "BertConfig", "encoder.layer.0", "encoder.layer.3", **_SMALL),
        _of_transformers("ViTModel", "ViTConfig", "layers.0", "layers.3", **vit),
        _of_transformers("DeiTModel", "DeiTConfig", "layers.0", "layers.3", **vit),
        _of_transformers("BeitModel", "BeitConfig", "layers.0", "layers.3", **vit),
        _of_transformers("SwinModel", "SwinConfig", "encoder.layers.0", "encoder.layers.1", **swin),
        _of_transformers("SegformerModel", "SegformerConfig", "stages.0", "stages.3"),
        _of_transformers("ConvNextModel", "ConvNextConfig", "encoder.stages.0", "encoder.stages.3"),
        _of_transformers("LlamaModel", "LlamaConfig", "layers.0", "layers.3", **_SMALL),
        _of_transformers("GPT2Model", "GPT2Config", "h.0", "h.3", **gpt),
        _of_transformers("T5EncoderModel", "T5Config", "encoder.block.0", "encoder.block.3", **t5),
        _of_ultralytics("yolov8n", "model.4", "model.6", "model.9"),
        _of_ultralytics("yolov5n", "model.4", "model.6", "model.9"),
        _of_ultralytics("yolo11n", "model.4", "model.6", "model.10"),
        _of_ultralytics("yolov9t", "model.4", "model.6", "model.9"),
        _of_smp("Unet", "encoder.layer2", "decoder.blocks.2"),
        _of_smp("FPN", "encoder.layer2", "decoder.p3"),
        _of_smp("DeepLabV3Plus", "encoder.layer2", "decoder.aspp"),
        _of_smp("MAnet", "encoder.layer2", "decoder.blocks.2"),
    ]


def measure(case: Case, repeats: int) -> Measured:
    """Measure one model, a first call not counted."""
    model = case.make().eval()
    example = next(guess_examples(model))
    with _counting() as recordings:
        seconds = [
            measure_seconds(lambda: fxfeat.create_feature_extractor(model, case.nodes)) for _ in range(repeats + 1)
        ]
    export = _try(lambda: torch.export.export(model, example.args, example.kwargs, strict=False))
    return Measured(
        case.name,
        statistics.median(seconds[1:]),
        export,
        _time_on_meta(model, example.args, example.kwargs),
        recordings[0] // (repeats + 1),
    )


def _time_on_meta(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float | None:
    try:
        bare = copy.deepcopy(model).to("meta")
    except Exception:
        return None
    given = torch.utils._pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))

    def run_thrice() -> None:
        for _ in range(3):
            bare(*given[0], **given[1])

    _try(run_thrice)
    return _try(run_thrice)


@contextlib.contextmanager
def _counting() -> Iterator[list[int]]:
    counts, once = [0], run.run_once

    def counted(*args: Any) -> Any:
        counts[0] += 1
        return once(*args)

    run.run_once = counted
    try:
        yield counts
    finally:
        run.run_once = once


def _try(call: Callable[[], object]) -> float | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return measure_seconds(call)
    except Exception:
        return None


def write_table(rows: list[Measured]) -> list[str]:
    """Write the table."""

    def spell(seconds: float | None) -> str:
        return "does not run" if seconds is None else f"{seconds * 1000:.0f}"

    within = sum(row.fxfeat <= row.limit and row.recordings <= 8 for row in rows)
    return [
        "## Models that torchvision cannot trace",
        "",
        f"Two or three modules of each, both modes; {within} of {len(rows)} take at most the larger of the time of "
        "`torch.export` (non-strict) and of three plain runs on the meta device, and at most 8 runs of opened code.",
        "",
        "| model | fxfeat, ms | torch.export, ms | three runs on meta, ms | runs of opened code |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {row.name} | {row.fxfeat * 1000:.0f} | {spell(row.export)} | {spell(row.runs_on_meta)} | "
            f"{row.recordings} |"
            for row in rows
        ),
        "",
    ]
