"""How long it takes to make an extractor, beside torchvision's: ``python -m benchmarks.creation``.

Process time on one thread, both libraries in turn in one process, medians. The first call of a fresh process is
measured apart. Ratios are what counts: both share the machine and its load.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torchvision
from torch import nn
from torchvision.models import feature_extraction

import fxfeat
from benchmarks import creation_large, creation_others
from benchmarks.process_time import measure_seconds
from benchmarks.stages import STAGES

RESULTS = Path(__file__).parent / "results" / "creation.md"


@dataclass(frozen=True)
class Row:
    """Seconds of process time that fxfeat and torchvision took for one request."""

    model: str
    request: str
    fxfeat: float
    torchvision: float

    @property
    def ratio(self) -> float:
        """How many times torchvision's time fxfeat took."""
        return self.fxfeat / self.torchvision


def build(name: str) -> nn.Module:
    """Build a model of torchvision without weights."""
    extra = {"aux_logits": False, "init_weights": False} if name in ("inception_v3", "googlenet") else {}
    backbone = {"weights_backbone": None} if name in _segmentation() else {}
    return torchvision.models.get_model(name, weights=None, **extra, **backbone).eval()


def _segmentation() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models.segmentation)


def measure(name: str, repeats: int) -> list[Row]:
    """Measure the requests of one model: its stages, an operation deep inside, all names."""
    model = build(name)
    _, names = feature_extraction.get_graph_node_names(model, suppress_diff_warning=True)
    operation = names[len(names) // 2]
    requests: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "modules": (
            lambda: fxfeat.create_feature_extractor(model, STAGES[name]),
            lambda: feature_extraction.create_feature_extractor(model, STAGES[name]),
        ),
        "operation": (
            lambda: fxfeat.create_feature_extractor(model, [operation]),
            lambda: feature_extraction.create_feature_extractor(model, [operation]),
        ),
        "names": (
            lambda: fxfeat.get_graph_node_names(model, suppress_diff_warning=True),
            lambda: feature_extraction.get_graph_node_names(model, suppress_diff_warning=True),
        ),
    }
    return [Row(name, request, *_interleave(*pair, repeats)) for request, pair in requests.items()]


def _interleave(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> tuple[float, float]:
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for seconds, call in zip(times, (ours, theirs), strict=True):
            seconds.append(measure_seconds(call))
    warm = 1 if repeats > 1 else 0
    return statistics.median(times[0][warm:]), statistics.median(times[1][warm:])


def measure_cold(name: str) -> Row:
    """Measure the first request of a fresh process for each library, imports apart."""
    seconds = [float(_run_fresh("--first", name, library)[-1]) for library in ("fxfeat", "torchvision")]
    return Row(name, "modules, first call", *seconds)


def _first_call(name: str, library: str) -> float:
    model = build(name)
    create = fxfeat.create_feature_extractor if library == "fxfeat" else feature_extraction.create_feature_extractor
    return measure_seconds(lambda: create(model, STAGES[name]))


def _run_fresh(*arguments: str) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.creation", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()


def write_page(rows: list[Row], repeats: int) -> str:
    """Write the table and its medians."""
    by_request: dict[str, list[Row]] = {}
    for row in rows:
        by_request.setdefault(row.request, []).append(row)
    lines = [
        "# Time to make an extractor",
        "",
        f"Written by `python -m benchmarks.creation --cold --others --large`: torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, one thread, process time, median of {repeats} after a first that is "
        "not counted; both modes are made.",
        "",
        "| request | models | median ratio | worst ratio |",
        "| --- | ---: | ---: | ---: |",
    ]
    for request, group in by_request.items():
        ratios = sorted(row.ratio for row in group)
        lines.append(f"| {request} | {len(group)} | {statistics.median(ratios):.2f} | {ratios[-1]:.2f} |")
    lines += ["", "| model | request | fxfeat, ms | torchvision, ms | ratio |", "| --- | --- | ---: | ---: | ---: |"]
    lines += [
        f"| {row.model} | {row.request} | {row.fxfeat * 1000:.0f} | {row.torchvision * 1000:.0f} | {row.ratio:.2f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _measure_others(repeats: int) -> Iterator[creation_others.Measured]:
    for case in creation_others.list_cases():
        row = creation_others.measure(case, repeats)
        print(json.dumps(asdict(row)), flush=True)
        yield row


def main() -> None:
    """Measure all, or the models named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=[])
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--cold", action="store_true", help="measure the first call of a fresh process too")
    parser.add_argument("--others", action="store_true", help="measure models that torchvision cannot trace too")
    parser.add_argument("--large", action="store_true", help="measure chains, huge models and levels too")
    parser.add_argument("--out", type=Path, help=f"where to write the page, such as {RESULTS.name}")
    parser.add_argument("--first", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.first:
        print(_first_call(*options.first))
        return
    rows: list[Row] = []
    for name in options.models or STAGES:
        rows += [*measure(name, options.repeats), *([measure_cold(name)] if options.cold else [])]
        for row in rows:
            if row.model == name:
                print(json.dumps({**asdict(row), "ratio": round(row.ratio, 2)}), flush=True)
    page = write_page(rows, options.repeats - 1)
    if options.others:
        page += "\n" + "\n".join(creation_others.write_table([*_measure_others(options.repeats - 1)]))
    if options.large:
        page += "\n" + "\n".join(creation_large.write_tables())
    print(page)
    if options.out:
        options.out.write_text(page)


if __name__ == "__main__":
    main()
