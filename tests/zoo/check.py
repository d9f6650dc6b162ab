"""One check for every model: all its modules at once and a few alone, in both modes, at other sizes."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

import fxfeat
from tests.zoo.against_torchvision import check_rival
from tests.zoo.comparing import Calls, differing, run_extractor, run_hooked, unrepeatable
from tests.zoo.entry import Entry
from tests.zoo.resizing import resize
from tests.zoo.result import Result
from tests.zoo.timing import time_verify

ALONE = 1
MODES = {"eval": False, "train": True}
LONGEST_REASON = 400
RIVAL_STAGE = "torchvision's extractor"

Report = Callable[[str, Result], None]


def check_entry(
    entry: Entry, report: Report = lambda stage, result: None, engine: str = "auto", brief: bool = False
) -> Result:
    """Compare every module of a model that returns a tensor with its hook.

    Args:
        entry: the model.
        report: called with the name of each stage before it, and with the result so far.
        engine: as for ``create_feature_extractor``.
        brief: leaves out torchvision's extractor, the time of ``verify``, and other sizes than three rows.
    """
    result, start = Result(entry.name), time.perf_counter()
    report("building", result)
    model, inputs = entry.build(), entry.inputs()
    result.parameters = sum(parameter.numel() for parameter in model.parameters())
    seen = {mode: held for mode in MODES if (held := _run_eager(model, inputs, mode, result, report)) is not None}
    result.modules = max(map(len, seen.values()), default=0)
    if seen:
        _check_extractors(model, inputs, seen, result, report, engine, brief)
    if not brief:
        report(RIVAL_STAGE, result)
        result.rival = check_rival(model, inputs, seen)
    result.seconds = round(time.perf_counter() - start, 1)
    return result


def time_entry(known: Result, entry: Entry, report: Report) -> Result:
    """Measure again how long ``verify`` takes in eval mode, and keep the rest of what is known of a model."""
    result = dataclasses.replace(known, forward_seconds=None, verify_all=None, verify_one=None)
    report("building", result)
    model, inputs = entry.build().eval(), entry.inputs()
    report("timing verify", result)
    seen = {"eval": run_hooked(model, inputs)}
    whole = _create_both(model, inputs, {"eval": list(seen["eval"])})
    one = _create_both(model, inputs, {"eval": [next(_sample(seen))["eval"]]})
    time_verify(model.eval(), whole.eval(), one.eval(), inputs, result)
    return result


def _run_eager(model: nn.Module, inputs: Any, mode: str, result: Result, report: Report) -> Calls | None:
    report(f"{mode}: eager", result)
    model.train(MODES[mode])
    try:
        expected = run_hooked(model, inputs)
    except Exception as error:
        result.eager_errors[mode] = reason(error)
        return None
    result.eager_modes.append(mode)
    return expected


def _check_extractors(
    model: nn.Module,
    inputs: Any,
    seen: dict[str, Calls],
    result: Result,
    report: Report,
    engine: str,
    brief: bool,
) -> None:
    report(f"creating the extractor of all {result.modules} modules", result)
    whole = _create(model, inputs, {mode: list(calls) for mode, calls in seen.items()}, result, engine)
    result.recorded_modes = list(whole)
    result.tapped = list(dict.fromkeys(line for extractor in whole.values() for line in _tapped(model, extractor)))
    for mode, extractor in whole.items():
        report(f"{mode}: running", result)
        _set_mode(model, extractor, mode)
        _compare(model, extractor, inputs, seen[mode], list(seen[mode]), f"{mode}, as recorded", result)
        sizes = {size: other for size, other in resize(inputs).items() if size == "3 rows" or not brief}
        _check_sizes(model, extractor, sizes, mode, list(seen[mode]), result, report)
    alone: dict[str, nn.Module] = {}
    for names in _sample(seen):
        report(f"{next(iter(names.values()))} alone", result)
        alone = _create(model, inputs, {mode: [name] for mode, name in names.items()}, result, engine)
        for mode, extractor in alone.items():
            _set_mode(model, extractor, mode)
            _compare(model, extractor, inputs, seen[mode], [names[mode]], f"{mode}, alone", result)
    if "eval" in whole and not brief:
        report("timing verify", result)
        one = alone["eval"].eval() if "eval" in alone else None
        time_verify(model.eval(), whole["eval"].eval(), one, inputs, result)


def _tapped(model: nn.Module, extractor: Any) -> list[str]:
    """Say which modules run whole, with what share of the parameters, and why."""
    every = sum(parameter.numel() for parameter in model.parameters())
    inner = {path: sum(held.numel() for held in model.get_submodule(path).parameters()) for path, _ in extractor.tapped}
    return [f"{path or 'all'} ({inner[path] / max(every, 1):.0%}): {reason}" for path, reason in extractor.tapped]


def _set_mode(model: nn.Module, extractor: nn.Module, mode: str) -> None:
    model.train(MODES[mode])
    extractor.train(MODES[mode])


def _sample(seen: dict[str, Calls]) -> Iterator[dict[str, str]]:
    """Yield a few names for each mode, the same in both where both have it."""
    chosen = random.Random(0)
    first = next(iter(seen.values()))
    for name in chosen.sample(list(first), min(ALONE, len(first))):
        yield {mode: name if name in calls else chosen.choice(list(calls)) for mode, calls in seen.items()}


def _create(
    model: nn.Module, inputs: Any, names: dict[str, list[str]], result: Result, engine: str
) -> dict[str, nn.Module]:
    """Make one extractor for the modes that run, or else one for each mode alone, and note what fails."""
    try:
        made = _create_both(model, inputs, names, engine)
        return dict.fromkeys(names, made)
    except Exception:
        alone = {mode: _create_one(model, inputs, mode, held, result, engine) for mode, held in names.items()}
        return {mode: made for mode, made in alone.items() if made is not None}


def _create_both(model: nn.Module, inputs: Any, names: dict[str, list[str]], engine: str = "auto") -> nn.Module:
    first = next(iter(names.values()))
    train, evaluation = (names.get(mode, first[:1]) for mode in ("train", "eval"))
    model.train(next(iter(names)) == "train")
    # Layers dropped at random are the same ones as in the seeded run of the model.
    torch.manual_seed(0)
    made = fxfeat.create_feature_extractor(
        model, train_return_nodes=train, eval_return_nodes=evaluation, example_inputs=inputs, engine=engine
    )
    for mode in names:
        made.train(MODES[mode]).code  # noqa: B018  a mode that could not be recorded says so now
    return made


def _create_one(
    model: nn.Module, inputs: Any, mode: str, names: list[str], result: Result, engine: str
) -> nn.Module | None:
    try:
        return _create_both(model, inputs, {mode: names}, engine)
    except Exception as error:
        asked = f"all {len(names)} modules" if len(names) > 1 else names[0]
        result.failures.append(f"{mode}, creating with {asked}: {reason(error)}")
        return None


def _check_sizes(
    model: nn.Module,
    extractor: nn.Module,
    sizes: dict[str, Any],
    mode: str,
    names: list[str],
    result: Result,
    report: Report,
) -> None:
    for size, other in sizes.items():
        report(f"{mode}: {size}", result)
        _compare_resized(model, extractor, other, names, f"{mode}, {size}", result)


def _compare_resized(
    model: nn.Module, extractor: nn.Module, inputs: Any, names: list[str], case: str, result: Result
) -> None:
    try:
        expected = run_hooked(model, inputs)
    except Exception:
        return  # the model itself does not take this size
    _compare(model, extractor, inputs, expected, [name for name in names if name in expected], case, result)


def _compare(
    model: nn.Module, extractor: nn.Module, inputs: Any, expected: Calls, names: list[str], case: str, result: Result
) -> None:
    try:
        actual = run_extractor(model, extractor, inputs)
    except fxfeat.GuardError as error:
        result.refused.append(f"{case}: {reason(error)}")
        return
    except Exception as error:
        result.failures.append(f"{case}, running: {reason(error)}")
        return
    suspects = differing(model, actual, expected, names)
    excused = unrepeatable(model, inputs, expected, suspects)
    result.compared += len(names) - len(excused)
    result.wrong += [f"{case}: {name}" for name in suspects if name not in excused]
    result.unrepeatable += [f"{case}: {name}" for name in suspects if name in excused]


def reason(error: BaseException) -> str:
    """Put an error into one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:LONGEST_REASON]
