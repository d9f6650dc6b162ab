"""Find out whether emitted code gives what the model does, where modules may hand things on to each other in Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from fxfeat.eager import Sight, is_meta, is_operation, lend, see
from fxfeat.emit.extractor import Emission, Forms, Row, build_extractor
from fxfeat.errors import FxfeatError
from fxfeat.record.examples import Example, copy_example
from fxfeat.record.photograph import Photograph
from fxfeat.record.random_state import RandomState, read_random, restore_random
from fxfeat.record.recording import Recording
from fxfeat.record.structure import copy_tensors, tensors
from fxfeat.record.untouched import untouched
from fxfeat.repeats import equal_values, see_all
from fxfeat.rewrite.draft import Draft

_SPREAD = 2.0


def may_hand_on(recording: Recording, draft: Draft) -> bool:
    """Say whether code changes what Python holds, or uses what it was not given."""
    return bool(recording.settings or recording.changed or recording.altered or draft.handed_on)


def is_faithful(model: nn.Module, sight: Sight, emission: Emission, tracer_kwargs: dict[str, Any]) -> bool:
    """Say whether code gives on an example, twice in turn, what the model gives, and then on other values.

    Where either refuses the example, that is taken for granted.

    Args:
        model: the model; it comes back as it was.
        sight: the features, the example, and the mode.
        emission: the code.
        tracer_kwargs: as the code was recorded with.
    """
    if is_meta(model):
        return True
    # With gradients as they are: code may ask whether they are on.
    with untouched(model) as before, torch.compiler.set_stance("force_eager"):
        random = read_random()
        # What a threshold hides of the example, another one shows.
        sights = [sight, sight, replace(sight, example=_spread(sight.example))]
        expected = _run_each(sights, random, lambda held: see_all(model, before, held))
        if not expected:
            return True
        before.restore()
        call = _caller(emission, model, before, sight, tracer_kwargs)
        try:
            found = _run_each(sights[: len(expected)], random, call, FxfeatError)
        except Exception:
            return False
        if not found:
            return True
        wrong = _differing(sight, expected[0], found[0])
        if wrong and all(map(is_operation, wrong)):
            # Counting calls may have told another operation; a recording is sure.
            before.restore()
            restore_random(random)
            see(model, before, sight.only(wrong), lambda row, value: expected[0].update({row.key: copy_tensors(value)}))
            wrong = _differing(sight, expected[0], found[0])
        modules = sight.only(row for row in sight.rows if not is_operation(row))
        later = zip(expected[1:], found[1:], strict=False)
        return not wrong and not any(_differing(modules, *pair) for pair in later)


def _run_each(
    sights: list[Sight],
    random: RandomState,
    run: Callable[[Sight], dict[str, Any]],
    refusal: type[Exception] = Exception,
) -> list[dict[str, Any]]:
    """Run on each example in turn, up to one that is refused.

    The random numbers are the same each time: code draws none of those that come after the last feature.
    """
    found: list[dict[str, Any]] = []
    for sight in sights:
        restore_random(random)
        try:
            found.append(run(sight))
        except refusal:
            break
    return found


def _spread(example: Example) -> Example:
    """Copy an example with other numbers in it, small ones and large ones of either sign."""
    made = copy_example(example)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _, held in tensors((made.args, made.kwargs)):
            if held.is_floating_point():
                held.normal_(std=_SPREAD)
    return made


def _caller(
    emission: Emission, model: nn.Module, before: Photograph, sight: Sight, tracer_kwargs: dict[str, Any]
) -> Callable[[Sight], dict[str, Any]]:
    """Return what calls the code, in the mode that it was recorded in."""
    extractor = build_extractor(Forms(emission, emission, None), model, tracer_kwargs)
    if sight.training is not None:
        model.train(sight.training)

    def call(held: Sight) -> dict[str, Any]:
        with lend(extractor, before, held):
            example = copy_example(held.example)
            found: dict[str, Any] = extractor(*example.args, **example.kwargs)
        return found

    return call


def _differing(sight: Sight, expected: dict[str, Any], found: dict[str, Any]) -> list[Row]:
    return [row for row in sight.rows if row.key in expected and not equal_values(found[row.key], expected[row.key])]
