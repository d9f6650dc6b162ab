"""Compare fxfeat.Backbone's split of models with what their libraries say; writes results/head_split.md.

    nice -n 10 python -m benchmarks.head_split [NAME ...]

With names, only models whose names hold one of them are run again. What was run before is kept in results/.cache.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fxfeat
from tests.zoo.entry import Entry
from tests.zoo.families import timm as timm_family
from tests.zoo.families import torchvision as torchvision_family
from tests.zoo.families import transformers as transformers_family
from tests.zoo.inputs import image

RESULTS = Path(__file__).parent / "results"
CACHE = RESULTS / ".cache" / "head_split.jsonl"
ZOOS = ("timm", "torchvision", "transformers")
COLUMNS = ("scores", "features", "pre_logits")

LARGER: dict[str, int] = {"csatv2": 256, "levit": 224}
"""Families with larger images than the zoo's, which leave them one position: tokens of one grid do not show that."""

REASONS: dict[str, str] = {
    "timm.coat": "parallel branches meet in a convolution over their class tokens, one classifier behind it: fxfeat "
    "splits at the last value on every path, timm before the branches' norms",
    "timm.efficientvim": "timm's features are the states of each stage's last block, which have no positions",
    "timm.lowformer": "timm's head begins with a convolution that the model calls itself; elsewhere (EfficientNet) "
    "timm counts such a one among the features",
    "timm.pit": "timm's features are the class tokens alone, behind their norm: those have no positions",
    "timm.volo": "timm leaves the auxiliary classifier's tokens out",
    "transformers.Cvt": "the class token is split off by a size read from an earlier map, which fxfeat's head does "
    "not have: refused; transformers' last hidden state is the map without it",
    "transformers.Levit": "the classifier norms its input, so fxfeat counts that norm to it; at this size one position "
    "is left",
    "transformers.PoolFormer": "the last hidden state comes before the final norm, which belongs to the features",
    "transformers.SwiftFormer": "the last hidden state comes before the final norm, which belongs to the features",
    "torchvision.squeezenet": "the classifier comes before the pooling: the embedding is what it gets, pooled",
}
"""Why a model differs, by the beginning of its name."""


def main(names: list[str]) -> None:
    """Run what is missing or named, and write the report."""
    warnings.filterwarnings("ignore")
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    known = read_cache()
    for entry in entries():
        if entry.name not in known or any(name in entry.name for name in names):
            known[entry.name] = run(entry)
            print(json.dumps(known[entry.name]), flush=True)
            store(known)
    RESULTS.joinpath("head_split.md").write_text(report([row for row in known.values() if row.get("zoo")]))


def store(known: dict[str, dict[str, Any]]) -> None:
    """Keep the rows, whole at any moment."""
    made = CACHE.with_suffix(".new")
    made.write_text("".join(json.dumps(row) + "\n" for row in known.values()))
    made.replace(CACHE)


def read_cache() -> dict[str, dict[str, Any]]:
    """Read the rows of earlier runs by name."""
    lines = CACHE.read_text().splitlines() if CACHE.exists() else []
    return {row["name"]: row for row in map(json.loads, lines)}


def entries() -> Iterator[Entry]:
    """List one small model of each of timm's families, torchvision's classifiers, transformers' image classifiers."""
    for module, name, options, side in timm_family.MODELS:
        larger = {} if module in LARGER else options
        build = timm_family._builder(name, larger)
        yield Entry(f"timm.{module}.{name}", build, image(LARGER.get(module, side)))
    others = ("quantized_", "raft", "deeplab", "fcn", "lraspp", *torchvision_family.DETECTORS)
    for entry in torchvision_family.entries():
        if not entry.name.partition(".")[2].startswith(others):
            yield entry
    yield from image_classifiers()


def image_classifiers() -> Iterator[Entry]:
    """Make image classifiers of the configurations of transformers' vision models."""
    import transformers

    seen = set()
    for _, config, options, inputs in transformers_family.VISION:
        stem = config.removesuffix("Config")
        name = next((f"{stem}{end}" for end in ("ForImageClassification",) if hasattr(transformers, stem + end)), None)
        if name and name not in seen:
            seen.add(name)
            made = {**options, "num_labels": 7}
            yield Entry(f"transformers.{name}", transformers_family._builder(name, config, made), inputs)


def run(entry: Entry) -> dict[str, Any]:
    """Split one model and compare."""
    row: dict[str, Any] = {"name": entry.name, "zoo": entry.family}
    start = time.perf_counter()
    torch.manual_seed(0)
    try:
        model = entry.build().eval()
        given = entry.inputs()
        backbone = fxfeat.Backbone(model, example_inputs=given)
        row["split"] = backbone.split.why
        args, kwargs = ((given,), {}) if isinstance(given, torch.Tensor) else ((), given)
        with torch.no_grad():
            row |= COMPARE[entry.family](model, backbone, args, kwargs)
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {str(error)[:300]}"
    row["seconds"] = round(time.perf_counter() - start, 1)
    return row


def compare_timm(model: nn.Module, backbone: fxfeat.Backbone, args: Any, kwargs: Any) -> dict[str, Any]:
    """Compare with timm's own methods."""
    features = model.forward_features(*args)
    made = {"scores": equal(backbone.forward_head(backbone.forward_features(*args)), model(*args))}
    made["features"] = equal(backbone.forward_features(*args), features)
    before = backbone.forward_head(backbone.forward_features(*args), pre_logits=True)
    made["pre_logits"] = equal(before, model.forward_head(features, pre_logits=True))
    return made


def compare_torchvision(model: nn.Module, backbone: fxfeat.Backbone, args: Any, kwargs: Any) -> dict[str, Any]:
    """Compare with what goes into the last linear layer, or 1x1 convolution where there is none."""
    kinds: tuple[type, ...] = (
        (nn.Linear,) if any(isinstance(m, nn.Linear) for m in model.modules()) else (nn.Conv2d, nn.Conv3d)
    )
    last = [module for module in model.modules() if isinstance(module, kinds)][-1]
    return compare_hooked(model, backbone, args, kwargs, last)


def compare_transformers(model: nn.Module, backbone: fxfeat.Backbone, args: Any, kwargs: Any) -> dict[str, Any]:
    """Compare with the last hidden state and with what goes into the classifier."""
    hidden: list[Any] = []
    base = getattr(model, model.base_model_prefix, nn.Identity())
    handle = base.register_forward_hook(lambda module, inputs, result: hidden.append(result))
    last = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))][-1]
    made = compare_hooked(model, backbone, args, kwargs, last)
    handle.remove()
    if not hidden or not hasattr(hidden[0], "last_hidden_state"):
        return made
    return {**made, "features": equal(backbone.forward_features(*args, **kwargs), hidden[0].last_hidden_state)}


def compare_hooked(
    model: nn.Module, backbone: fxfeat.Backbone, args: Any, kwargs: Any, last: nn.Module
) -> dict[str, Any]:
    """Compare scores, and the embedding with what goes into a layer."""
    seen: list[torch.Tensor] = []
    handle = last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    result = model(*args, **kwargs)
    handle.remove()
    scores = result if isinstance(result, torch.Tensor) else result.logits
    features = backbone.forward_features(*args, **kwargs)
    before = backbone.forward_head(features, pre_logits=True)
    return {"scores": equal(backbone.forward_head(features), scores), "pre_logits": equal(before, seen[-1].flatten(1))}


def equal(ours: Any, theirs: Any) -> str:
    """Say "yes", or how two values differ."""
    if isinstance(ours, tuple) and isinstance(theirs, (tuple, list)) and len(ours) == len(theirs):
        return next((said for said in map(equal, ours, theirs) if said != "yes"), "yes")
    if not isinstance(theirs, torch.Tensor) or not isinstance(ours, torch.Tensor):
        return f"{_kind(ours)} for {_kind(theirs)}"
    if ours.shape != theirs.shape:
        return f"{tuple(ours.shape)} for {tuple(theirs.shape)}"
    if torch.equal(ours, theirs):
        return "yes"
    return f"differs by {(ours - theirs).abs().max():.2g}"


def _kind(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, torch.Tensor) else f"{type(value).__name__} of {len(value)}"


COMPARE: dict[str, Callable[..., dict[str, Any]]] = {
    "timm": compare_timm,
    "torchvision": compare_torchvision,
    "transformers": compare_transformers,
}


def report(rows: list[dict[str, Any]]) -> str:
    """Write the tables: how many agree, and each that does not."""
    lines = [
        "# The split into features and head",
        "",
        "`fxfeat.Backbone` on models with random weights, in eval mode. Equal means `torch.equal`.",
        "",
        "- scores: `forward_head(forward_features(x))` against the model's own result.",
        "- features: `forward_features(x)` against timm's `forward_features`, or transformers' `last_hidden_state`.",
        "- pre_logits: `forward_head(..., pre_logits=True)` against timm's, or what goes into the last linear layer.",
        "",
        "| models | count | scores equal | features equal | pre_logits equal |",
        "| --- | --- | --- | --- | --- |",
    ]
    for zoo in ZOOS:
        held = [row for row in rows if row["zoo"] == zoo]
        cells = [count(held, column) for column in COLUMNS]
        lines.append(f"| {zoo} | {len(held)} | {' | '.join(cells)} |")
    lines += ["", "## Where they differ, and why", "", "| model | what differs | why |", "| --- | --- | --- |"]
    for row in rows:
        differing = [f"{column}: {row[column]}" for column in COLUMNS if row.get(column, "yes") != "yes"]
        differing += [row["error"]] if "error" in row else []
        if differing:
            reason = next((text for key, text in REASONS.items() if row["name"].startswith(key)), "")
            lines.append(f"| {row['name']} | {'; '.join(differing)} | {reason} |")
    return "\n".join(lines) + "\n"


def count(rows: list[dict[str, Any]], column: str) -> str:
    """Count the rows that agree in a column."""
    asked = [row for row in rows if column in row or "error" in row]
    if not any(column in row for row in rows):
        return "-"
    agreeing = sum(row.get(column) == "yes" for row in asked)
    return f"{agreeing} ({agreeing / len(asked):.0%})"


if __name__ == "__main__":
    main(sys.argv[1:])
