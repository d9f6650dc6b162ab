"""The same check for torchvision's extractor.

It is given every module name that it accepts. Its extractor gives each node to one name only, so names that lie inside
one another are asked for in separate extractors, one for each depth; all at once is counted beside it.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch
from torch import nn
from torchvision.models import feature_extraction

from tests.zoo.comparing import Calls, differing, run_extractor, run_hooked, unrepeatable
from tests.zoo.resizing import resize
from tests.zoo.result import Rival

MODES = {"eval": False, "train": True}


def check_rival(model: nn.Module, inputs: Any, seen: dict[str, Calls]) -> Rival:
    rival = Rival(wanted=sum(map(len, seen.values())))
    if not seen:
        return rival
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _check(model, inputs, seen, rival)
    return rival


def _check(model: nn.Module, inputs: Any, seen: dict[str, Calls], rival: Rival) -> None:
    try:
        options, listed = _trace(model, inputs)
        names = {mode: _accepted(list(calls), listed[mode]) for mode, calls in seen.items()}
        rival.named = sum(map(len, names.values()))
        for level in _levels(names):
            extractor = _create(model, level, options)
            _compare(model, extractor, inputs, seen, level, rival)
    except Exception as error:
        rival.reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        return
    rival.recorded = rival.named > 0
    rival.reason = "" if rival.recorded else "it lists none of the model's modules"
    _check_at_once(model, inputs, seen, names, options, rival)


def _trace(model: nn.Module, inputs: Any) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """List names in both modes: as the model stands, and else with the arguments that the example leaves out fixed."""
    fixed = {"concrete_args": _left_out(model, inputs)}
    try:
        options: dict[str, Any] = {}
        train, evaluation = feature_extraction.get_graph_node_names(model)
    except Exception:
        if not fixed["concrete_args"]:
            raise
        options = fixed
        train, evaluation = feature_extraction.get_graph_node_names(model, **options)
    return options, {"train": train, "eval": evaluation}


def _left_out(model: nn.Module, inputs: Any) -> dict[str, Any]:
    signature = inspect.signature(model.forward)
    given = inputs if isinstance(inputs, dict) else {}
    positional = 0 if isinstance(inputs, dict) else len(inputs) if isinstance(inputs, tuple) else 1
    others = list(signature.parameters.values())[positional:]
    return {held.name: held.default for held in others if held.default is not held.empty and held.name not in given}


def _accepted(names: list[str], listed: list[str]) -> list[str]:
    return [name for name in names if any(node == name or node.startswith(name + ".") for node in listed)]


def _levels(names: dict[str, list[str]]) -> list[dict[str, list[str]]]:
    depths = sorted({name.count(".") for held in names.values() for name in held})
    return [{mode: [n for n in held if n.count(".") == depth] for mode, held in names.items()} for depth in depths]


def _create(model: nn.Module, names: dict[str, list[str]], options: dict[str, Any]) -> nn.Module:
    training = model.training
    try:
        return feature_extraction.create_feature_extractor(
            model, train_return_nodes=names.get("train", []), eval_return_nodes=names.get("eval", []), **options
        )
    finally:
        model.train(training)


def _compare(
    model: nn.Module,
    extractor: nn.Module,
    inputs: Any,
    seen: dict[str, Calls],
    names: dict[str, list[str]],
    rival: Rival,
) -> None:
    for mode in [mode for mode in seen if names[mode]]:
        _set_mode(model, extractor, mode)
        wrong = _wrong(model, extractor, inputs, seen[mode], names[mode])
        rival.compared += len(names[mode])
        rival.wrong += [f"{mode}: {name}" for name in wrong]
        for size, other in resize(inputs).items():
            _compare_resized(model, extractor, other, names[mode], f"{mode}, {size}", rival)


def _compare_resized(
    model: nn.Module, extractor: nn.Module, inputs: Any, names: list[str], case: str, rival: Rival
) -> None:
    try:
        expected = run_hooked(model, inputs)
    except Exception:
        return
    names = [name for name in names if name in expected]
    try:
        wrong = _wrong(model, extractor, inputs, expected, names)
    except Exception as error:
        rival.resized_errors.append(f"{case}: {type(error).__name__}: {' '.join(str(error).split())}"[:200])
        return
    rival.compared += len(names)
    rival.wrong += [f"{case}: {name}" for name in wrong]


def _check_at_once(
    model: nn.Module, inputs: Any, seen: dict[str, Calls], names: dict[str, list[str]], options: Any, rival: Rival
) -> None:
    # Outer names first: that is the order in which most of them get the node that they mean.
    ordered = {mode: sorted(held, key=lambda name: name.count(".")) for mode, held in names.items()}
    extractor = _create(model, ordered, options)
    for mode, calls in seen.items():
        _set_mode(model, extractor, mode)
        rival.at_once += len(names[mode])
        rival.at_once_wrong += len(_wrong(model, extractor, inputs, calls, names[mode]))


def _set_mode(model: nn.Module, extractor: nn.Module, mode: str) -> None:
    model.train(MODES[mode])
    extractor.train(MODES[mode])


def _wrong(model: nn.Module, extractor: nn.Module, inputs: Any, expected: Calls, names: list[str]) -> list[str]:
    actual = run_extractor(model, extractor, inputs)
    actual = {name: value for name, value in actual.items() if isinstance(value, torch.Tensor)}
    suspects = differing(model, actual, expected, names)
    excused = unrepeatable(model, inputs, expected, suspects)
    return [name for name in suspects if name not in excused]
