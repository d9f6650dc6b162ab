"""Compare the levels that fxfeat finds with the metadata that timm's authors wrote, one model of each module file.

    python -m benchmarks.pyramid [--levels] [MODULE ...]

The model's ``feature_info`` is deleted before fxfeat sees it. ``--levels`` leaves out the comparison of maps. Results
are kept in ``benchmarks/results/.cache/pyramid.jsonl``, so that a run can be taken up again; delete the file to start
anew. The report is ``benchmarks/results/pyramid.md``.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import sys
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

import fxfeat
from benchmarks.pyramid_reasons import REASONS
from fxfeat.pyramid.levels import Level
from fxfeat.pyramid.search import search_levels
from fxfeat.trace.setup import read_setup
from tests.zoo.families.timm import MODELS

RESULTS = Path(__file__).parent / "results"
CACHE, REPORT = RESULTS / ".cache" / "pyramid.jsonl", RESULTS / "pyramid.md"
Row = dict[str, Any]
Pairs = list[tuple[Row, Row | None]]


def main(modules: list[str], maps: bool) -> None:
    """Compare what is not in the cache yet, and write the report."""
    warnings.simplefilter("ignore")
    known = _read_cache()
    for module, name, options, _ in MODELS:
        done = module in known and not (maps and _lacks_maps(known[module]))
        if done or (modules and module not in modules):
            continue
        started = time.perf_counter()
        row = {"module": module, "model": name, **_compare(name, options, maps)}
        row["seconds"] = round(time.perf_counter() - started, 1)
        with CACHE.open("a") as file:
            file.write(json.dumps(row) + "\n")
        known[module] = row
        print(module, row.get("error") or _spell_verdicts(row), f"{row['seconds']} s", flush=True)
        gc.collect()
    REPORT.write_text(_write_report(sorted(known.values(), key=lambda row: row["module"])))


def _lacks_maps(row: Row) -> bool:
    return any(level["map"] == "not compared" for level in row.get("levels", []))


def _read_cache() -> dict[str, Row]:
    if not CACHE.exists():
        return {}
    return {row["module"]: row for row in map(json.loads, CACHE.read_text().splitlines())}


def _compare(name: str, options: dict[str, Any], maps: bool) -> Row:
    options = {key: value for key, value in options.items() if key != "img_size"}
    model = timm.create_model(name, **options).eval()
    fill(model)
    wanted = list(getattr(model.feature_info, "info", model.feature_info))
    del model.feature_info
    image = torch.rand(1, *model.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0))
    try:
        found = search_levels(read_setup(model, None, None, image)).levels
        pairs = pair_levels(wanted, [_row_of(level) for level in found])
        same = ["not compared"] * len(pairs)
        if maps:
            pyramid = fxfeat.features_only(model, len(found), example_inputs=image)
            same = _compare_maps(name, options, pyramid, image, pairs)
    except fxfeat.FxfeatError as error:
        return {"error": str(error)}
    paired = {ours["index"] for _, ours in pairs if ours is not None}
    return {
        "flat": len({level["reduction"] for level in wanted}) == 1,
        "levels": [_describe(theirs, ours, held) for (theirs, ours), held in zip(pairs, same, strict=True)],
        "extra": [_row_of(level) for level in found if level.index not in paired],
    }


def _row_of(level: Level) -> Row:
    channels = level.layout.channels
    return {"index": level.index, "reduction": level.reduction, "num_chs": channels, "module": level.module}


def pair_levels(wanted: list[Row], found: list[Row]) -> Pairs:
    """Pair each of timm's levels with one of fxfeat's: by number for blocks of one resolution, else by reduction."""
    if len({level["reduction"] for level in wanted}) == 1:
        padded: list[Row | None] = [*found, *[None] * len(wanted)]
        return list(zip(wanted, padded, strict=False))
    latest = {level["reduction"]: level for level in found}
    return [(level, latest.get(level["reduction"])) for level in wanted]


def _compare_maps(
    name: str, options: dict[str, Any], pyramid: fxfeat.FeaturePyramid, image: torch.Tensor, pairs: Pairs
) -> list[str]:
    """Say of each level whether its map is timm's, bit for bit."""
    try:
        theirs = timm.create_model(name, features_only=True, out_indices=tuple(range(len(pairs))), **options).eval()
        fill(theirs)
        with torch.no_grad():
            expected = theirs(image)
    except Exception as error:
        return [f"timm: {type(error).__name__}"] * len(pairs)
    with torch.no_grad():
        maps = pyramid(image)
    order = getattr(getattr(theirs, "output_fmt", "NCHW"), "value", "NCHW")
    expected = [held.permute(0, 3, 1, 2) if str(order) == "NHWC" else held for held in expected]
    return [
        _judge(held, None if ours is None else maps[ours["index"]])
        for held, (_, ours) in zip(expected, pairs, strict=True)
    ]


def _judge(expected: torch.Tensor, found: torch.Tensor | None) -> str:
    if found is None or expected.shape != found.shape:
        return "another shape"
    if torch.equal(expected, found):
        return "equal"
    return "close" if torch.allclose(expected, found, rtol=1e-4, atol=1e-5) else "another value"


def fill(model: nn.Module) -> None:
    """Give parameters and statistics values that depend on their names and shapes alone, however a model is wrapped."""
    statistics = ((name, held) for name, held in model.named_buffers() if "running" in name)
    for name, tensor in (*model.named_parameters(), *statistics):
        plain = name.replace(".", "_").removeprefix("body_").removeprefix("model_")
        generator = torch.Generator().manual_seed(zlib.crc32(plain.encode()))
        values = torch.rand(tensor.shape, generator=generator, dtype=torch.float32)
        fan = max(1, tensor[0].numel()) if tensor.dim() > 1 else 1
        with torch.no_grad():
            tensor.copy_((values - 0.5) * (3 / fan) ** 0.5 if tensor.dim() > 1 else values * 0.5 + 0.5)


def _describe(theirs: Row, ours: Row | None, same: str) -> Row:
    held = None if ours is None else [ours["reduction"], ours["num_chs"], ours["module"]]
    return {"timm": [theirs["reduction"], theirs["num_chs"], theirs["module"]], "fxfeat": held, "map": same}


def _counts(rows: list[Row]) -> dict[str, int]:
    levels = [level for row in rows for level in row.get("levels", [])]
    there = [level for level in levels if level["fxfeat"] is not None]
    compared = [level for level in levels if level["map"] != "not compared"]
    same = [level for level in compared if level["fxfeat"] is not None and level["fxfeat"][2] == level["timm"][2]]
    return {
        "families": len(rows),
        "levels": len(levels),
        "reductions": sum(level["fxfeat"][0] == level["timm"][0] for level in there),
        "channels": sum(level["fxfeat"][1] == level["timm"][1] for level in there),
        "compared": len(compared),
        "equal": sum(level["map"] == "equal" for level in compared),
        "same_module": len(same),
        "same_module_equal": sum(level["map"] == "equal" for level in same),
    }


def _spell_verdicts(row: Row) -> str:
    held = _counts([row])
    return f"{held['reductions']} {held['channels']} {held['equal']} of {held['levels']}"


def _write_report(rows: list[Row]) -> str:
    hierarchical = [row for row in rows if not row.get("flat")]
    flat = [row for row in rows if row.get("flat")]
    lines = [
        "# Levels beside timm's own metadata",
        "",
        f"timm {importlib.metadata.version('timm')}, torch {torch.__version__}. One model of each module file, at its "
        "usual image size. Its `feature_info` is deleted before fxfeat sees it. Levels are paired by reduction, blocks "
        "of flat models by number. A map is compared bit for bit with `features_only=True` of timm.",
        "",
        "| | families | levels | reduction same | channels same | maps | bit-equal | same module | these bit-equal |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for title, held in (("hierarchical", hierarchical), ("flat", flat)):
        lines.append(f"| {title} | {' | '.join(str(value) for value in _counts(held).values())} |")
    lines += ["", "## Disagreements", "", *_list_disagreements(rows), "", "## Levels that timm does not list", ""]
    lines += [f"- {row['module']} ({row['model']}): {_spell_extra(row)}" for row in rows if row.get("extra")]
    lines += ["", "## All", "", "| module file | model | reduction | channels | bit-equal | seconds |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        held = _counts([row])
        cells = [f"{held[key]}/{held['levels']}" for key in ("reductions", "channels")]
        cells.append(f"{held['equal']}/{held['compared']}" if held["compared"] else "not compared")
        lines.append(f"| {row['module']} | {row['model']} | {' | '.join(cells)} | {row['seconds']} |")
    return "\n".join(lines) + "\n"


def _list_disagreements(rows: list[Row]) -> list[str]:
    found = []
    for row in rows:
        reason = REASONS.get(row["module"], "")
        wrong = [level for level in row.get("levels", []) if not _agrees(level)]
        said = row.get("error") or "; ".join(map(_spell_level, wrong))
        if said:
            found.append(f"- **{row['module']}** ({row['model']}): {said}. {reason}".rstrip())
    return found or ["None."]


def _agrees(level: Row) -> bool:
    same = level["fxfeat"] is not None and level["fxfeat"][:2] == level["timm"][:2]
    return same and level["map"] in ("equal", "not compared")


def _spell_level(level: Row) -> str:
    def spell(held: list[Any] | None) -> str:
        return "nothing" if held is None else f"{held[1]} channels at {held[0]} (`{held[2]}`)"

    return f"timm {spell(level['timm'])}, fxfeat {spell(level['fxfeat'])}, {level['map']}"


def _spell_extra(row: Row) -> str:
    return ", ".join(f"{held['num_chs']} channels at {held['reduction']} (`{held['module']}`)" for held in row["extra"])


if __name__ == "__main__":
    main([word for word in sys.argv[1:] if word != "--levels"], "--levels" not in sys.argv)
