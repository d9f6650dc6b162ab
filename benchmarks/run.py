"""How long features take: by hand, by an extractor, optimized, by torchvision's, and by hooks on the whole model.

Run as ``python -m benchmarks.run``; ``--models`` picks some. Wall time on all of torch's threads, each way in turn,
medians.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models import feature_extraction

import fxfeat
from benchmarks.creation import build
from benchmarks.stages import STAGES

PAGE = Path(__file__).parent / "results" / "run.md"
CONVOLUTIONAL = (
    *("resnet50", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "densenet121", "mnasnet1_0"),
    *("regnet_y_400mf", "shufflenet_v2_x1_0", "squeezenet1_0", "vgg16"),
)
OTHERS = ("convnext_tiny", "swin_t")
BATCHES = (1, 8)
WAYS = ("by hand", "extractor", "optimized", "torchvision", "hooks")
Ways = dict[str, Callable[[], Any]]


class ByHand(nn.Module):
    """Runs the children of a model one after the other up to a stage, as somebody would write it."""

    def __init__(self, model: nn.Module, last: str) -> None:
        super().__init__()
        home, _, name = last.rpartition(".")
        inside = list(model.get_submodule(home).named_children())
        names = [child for child, _ in inside]
        self.parts = nn.ModuleList([*_in_front(model, home), *(part for _, part in inside[: names.index(name) + 1])])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the parts."""
        for part in self.parts:
            x = part(x)
        return x


def _in_front(model: nn.Module, home: str) -> list[nn.Module]:
    if not home:
        return []
    names = [name for name, _ in model.named_children()]
    return [part for _, part in list(model.named_children())[: names.index(home)]]


@dataclass(frozen=True)
class Row:
    """The seconds that each way took for one stage of a model at one batch size."""

    model: str
    stage: str
    batch: int
    seconds: dict[str, float]

    def ratio(self, way: str, to: str) -> float:
        """How many times the time of another way a way took."""
        return self.seconds[way] / self.seconds[to]


def draw_norms(model: nn.Module) -> nn.Module:
    """Draw the statistics of norms: on a fresh model, leaving one out hardly shows."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def measure(name: str, rounds: int) -> Iterable[Row]:
    """Measure a model at two depths and two batch sizes."""
    model = draw_norms(build(name))
    stages = STAGES[name]
    for stage in (stages[len(stages) // 2 - 1], stages[-1]):
        for batch in BATCHES:
            x = torch.rand(batch, 3, 224, 224)
            ways = _ways(model, stage, x)
            _check(ways, stage)
            yield Row(name, stage, batch, _time(ways, rounds))


def _ways(model: nn.Module, stage: str, x: torch.Tensor) -> Ways:
    extractor = fxfeat.create_feature_extractor(model, [stage], example_inputs=x)
    optimized, _ = extractor.optimize(x)
    theirs = feature_extraction.create_feature_extractor(model, [stage], suppress_diff_warning=True)
    by_hand = ByHand(model, stage).eval()
    modules = {"extractor": extractor, "optimized": optimized, "torchvision": theirs, "by hand": by_hand}
    ways: Ways = {name: (lambda module=module: module(x)) for name, module in modules.items()}
    ways["hooks"] = lambda: _run_with_hook(model, stage, x)
    return {name: ways[name] for name in WAYS}


def _run_with_hook(model: nn.Module, stage: str, x: torch.Tensor) -> dict[str, torch.Tensor]:
    values: dict[str, torch.Tensor] = {}
    hook = model.get_submodule(stage).register_forward_hook(
        lambda module, args, output: values.update({stage: output.clone()})
    )
    model(x)
    hook.remove()
    return values


def _check(ways: Ways, stage: str) -> None:
    """Compare the values, so that no way is timed that computes something else."""
    with torch.no_grad():
        values = {name: run() for name, run in ways.items()}
    tensors = {name: value if isinstance(value, torch.Tensor) else value[stage] for name, value in values.items()}
    hooked = tensors["hooks"]
    for name, tensor in tensors.items():
        if name == "optimized":
            assert (tensor - hooked).abs().max() <= 1e-4 * hooked.abs().max(), name
        elif name != "torchvision":  # which is wrong where a model writes in place
            assert torch.equal(tensor, hooked), name


def _time(ways: Ways, rounds: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with torch.no_grad():
        for _ in range(rounds + 1):
            for name, run in ways.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken[1:]) for name, taken in seconds.items()}


def write_page(rows: list[Row], rounds: int) -> str:
    """Write the page: medians and means of ratios, then each row."""
    convolutional = [row for row in rows if row.model in CONVOLUTIONAL]
    lines = [
        "# Time to run",
        "",
        f"Written by `python -m benchmarks.run`: torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"{torch.get_num_threads()} threads, wall time, each way in turn, median of {rounds} after one that is not "
        "counted; two stages of each model, at batches of 1 and 8 images of 224 x 224.",
        "",
        f"- An extractor takes {_median(rows, 'extractor', 'by hand'):.3f} of the time of the same modules called by "
        "hand (median).",
        f"- `optimize()` takes {_mean(convolutional, 'optimized', 'torchvision'):.2f} of the time of torchvision's "
        f"extractor on {len({row.model for row in convolutional})} convolutional models (geometric mean; at most "
        f"{max((row.ratio('optimized', 'torchvision') for row in convolutional), default=0):.2f}).",
        f"- Hooks on the whole model take {_mean(rows, 'hooks', 'extractor'):.2f} times an extractor's time (geometric "
        "mean).",
        "",
        "| model | stage | batch | by hand, ms | extractor | optimized | torchvision | hooks |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        ratios = " | ".join(f"{row.ratio(way, 'by hand'):.2f}" for way in WAYS[1:])
        milliseconds = row.seconds["by hand"] * 1000
        lines.append(f"| {row.model} | {row.stage} | {row.batch} | {milliseconds:.1f} | {ratios} |")
    return "\n".join([*lines, "", "Columns after the first are in parts of the time by hand.", ""])


def _median(rows: list[Row], way: str, to: str) -> float:
    return statistics.median(row.ratio(way, to) for row in rows)


def _mean(rows: list[Row], way: str, to: str) -> float:
    return math.exp(statistics.fmean(math.log(row.ratio(way, to)) for row in rows)) if rows else math.nan


def main() -> None:
    """Measure, and write the page after each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join((*CONVOLUTIONAL, *OTHERS)), help="names of torchvision's models")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: list[Row] = []
    for name in options.models.split(","):
        for row in measure(name, options.rounds):
            rows.append(row)
            shown = ", ".join(f"{way} {row.ratio(way, 'by hand'):.2f}" for way in WAYS[1:])
            print(f"{row.model} {row.stage} {row.batch}: {shown}", flush=True)
        options.out.write_text(write_page(rows, options.rounds))


if __name__ == "__main__":
    main()
