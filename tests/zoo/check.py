"""One check for every model: all its modules at once and a few alone, in both modes, at other sizes."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import fxfeat
from fxfeat.record.leaves import choose_leaves
from tests.oracle import call, hooked, kept_buffers, same

ALONE = 3


@dataclass
class Outcome:
    """What became of one model: how many features were compared, and what went wrong."""

    compared: int = 0
    refused: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def check_model(model: nn.Module, inputs: Any, resized: bool = True) -> Outcome:
    """Compare every module that returns a tensor with its hook."""
    outcome = Outcome()
    for training in (False, True):
        model.train(training)
        try:
            expected = run_hooked(model, inputs)
        except Exception:
            continue  # what does not run in eager mode is not to be compared
        check_mode(model, inputs, expected, training, resized, outcome)
    return outcome


def run_hooked(model: nn.Module, inputs: Any) -> dict[str, list[torch.Tensor]]:
    torch.manual_seed(0)
    with torch.no_grad():
        return hooked(model, inputs)


def check_mode(model, inputs, expected, training, resized, outcome) -> None:
    names = list(expected)
    extractor = make(model, inputs, names, training, outcome)
    if extractor is None:
        return
    compare(model, extractor, inputs, expected, names, outcome)
    for name in random.Random(0).sample(names, min(ALONE, len(names))):
        alone = make(model, inputs, [name], training, outcome)
        if alone is not None:
            compare(model, alone, inputs, expected, [name], outcome)
    for other in resize(inputs) if resized else ():
        try:
            again = run_hooked(model, other)
        except Exception:
            continue
        compare(model, extractor, other, again, [name for name in names if name in again], outcome)


def make(model, inputs, names, training, outcome) -> fxfeat.FeatureExtractor | None:
    # The other mode may not have these modules; it gets a name that every model has.
    wanted, other = {name: name for name in names}, {"output": "output"}
    other = wanted if len(names) == 1 else {names[0]: names[0]}
    request = {"train_return_nodes": wanted if training else other, "eval_return_nodes": other if training else wanted}
    try:
        return fxfeat.create_feature_extractor(model, **request, example_inputs=inputs).train(training)
    except fxfeat.FxfeatError as error:
        outcome.failed.append(f"{type(error).__name__}: {error}"[:300])
        return None


def compare(model, extractor, inputs, expected, names, outcome) -> None:
    torch.manual_seed(0)
    try:
        with torch.no_grad(), kept_buffers(model):
            actual = call(extractor, inputs)
    except fxfeat.GuardError as error:
        outcome.refused.append(str(error))
        return
    several = shared(model)
    for name in names:
        outcome.compared += 1
        calls = expected[name]
        legal = calls if name in several else calls[:1] if is_leaf(model, name) else calls[-1:]
        if not any(same(actual[name], value) for value in legal):
            outcome.wrong.append(name)


def shared(model: nn.Module) -> set[str]:
    """List modules that several paths lead to, where a path means the calls made through it."""
    counts = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    return {path for path, module in model.named_modules() if counts[id(module)] > 1}


def is_leaf(model: nn.Module, name: str) -> bool:
    return choose_leaves(None).has_module(model.get_submodule(name), name)


def resize(inputs: Any) -> list[Any]:
    """Give inputs with 1 and with 3 rows, and larger images."""

    def rows(count: int) -> Any:
        return change(inputs, lambda t: t[[i % len(t) for i in range(count)]] if t.dim() > 1 else t)

    def larger(t: torch.Tensor) -> torch.Tensor:
        return torch.rand(*t.shape[:-2], t.shape[-2] + 32, t.shape[-1] + 64) if t.dim() >= 4 else t

    return [rows(1), rows(3), change(inputs, larger)]


def change(inputs: Any, function: Any) -> Any:
    if isinstance(inputs, torch.Tensor):
        return function(inputs)
    if isinstance(inputs, dict):
        return {key: change(held, function) for key, held in inputs.items()}
    return inputs
