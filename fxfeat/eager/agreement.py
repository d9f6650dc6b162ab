"""Find out whether emitted code gives what the model does, where modules may hand things on to each other in Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from fxfeat.codegen.extractor import build_extractor
from fxfeat.eager.observe import Observation, is_meta, is_operation, lend, observe
from fxfeat.eager.repeated_calls import copy_observed, equal_values
from fxfeat.errors import FxfeatError
from fxfeat.inputs.examples import copy_example, other_values
from fxfeat.ir.draft import Draft
from fxfeat.ir.emission import Emission, ModeVariants, Row
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import copy_tensors
from fxfeat.isolation.own_modes import set_mode
from fxfeat.isolation.preserved import preserved, preserved_functions
from fxfeat.isolation.python_state import PythonState
from fxfeat.isolation.random_state import RandomState, read_random, restore_random
from fxfeat.isolation.torch_settings import same_switches


def may_have_implicit_inputs(recording: Recording, draft: Draft) -> bool:
    """Say whether code changes what Python holds, or uses what it was not given."""
    return bool(
        recording.attribute_writes or recording.changed_attributes or recording.mutated or draft.implicit_inputs
    )


def agrees_with_eager(
    model: nn.Module, observation: Observation, emission: Emission, tracer_kwargs: dict[str, Any]
) -> bool:
    """Say whether code gives on an example, twice in turn, what the model gives, and then on other values.

    Where either refuses the example, that is taken for granted.

    Args:
        model: the model; it comes back as it was.
        observation: the features, the example, and the mode.
        emission: the code.
        tracer_kwargs: as the code was recorded with.
    """
    if is_meta(model):
        return True
    # With gradients as they are: code may ask whether they are on.
    functions = [each.function for each in observation.replacements]
    with (
        same_switches(),
        preserved_functions(functions),
        preserved(model) as before,
        torch.compiler.set_stance("force_eager"),
    ):
        random = read_random()
        # What a threshold hides of the example, another one shows.
        observations = [observation, observation, replace(observation, example=other_values(observation.example))]
        expected = _run_each(observations, random, lambda each: copy_observed(model, before, each))
        if not expected:
            return True
        before.restore()
        call = _caller(emission, model, before, observation, tracer_kwargs)
        try:
            actual = _run_each(observations[: len(expected)], random, call, FxfeatError)
        except Exception:
            return False
        if not actual:
            return True
        wrong = _differing(observation, expected[0], actual[0])
        if wrong and all(map(is_operation, wrong)):
            # Counting calls may have told another operation; a recording is sure.
            before.restore()
            restore_random(random)
            observe(
                model,
                before,
                observation.only(wrong),
                lambda row, value: expected[0].update({row.key: copy_tensors(value)}),
            )
            wrong = _differing(observation, expected[0], actual[0])
        modules = observation.only(row for row in observation.rows if not is_operation(row))
        later = zip(expected[1:], actual[1:], strict=False)
        return not wrong and not any(_differing(modules, *pair) for pair in later)


def _run_each(
    observations: list[Observation],
    random: RandomState,
    run: Callable[[Observation], dict[str, Any]],
    refusal: type[Exception] = Exception,
) -> list[dict[str, Any]]:
    """Run on each example in turn, up to one that is refused.

    The random numbers are the same each time: code draws none of those that come after the last feature.
    """
    results: list[dict[str, Any]] = []
    for observation in observations:
        restore_random(random)
        try:
            results.append(run(observation))
        except refusal:
            break
    return results


def _caller(
    emission: Emission, model: nn.Module, before: PythonState, observation: Observation, tracer_kwargs: dict[str, Any]
) -> Callable[[Observation], dict[str, Any]]:
    """Return what calls the code, in the mode that it was recorded in."""
    if observation.training is not None:
        set_mode(model, observation.training)
    extractor = build_extractor(ModeVariants(emission, emission, None), model, tracer_kwargs)

    def call(observation: Observation) -> dict[str, Any]:
        with lend(extractor, before, observation):
            example = copy_example(observation.example)
            features: dict[str, Any] = extractor(*example.args, **example.kwargs)
        return features

    return call


def _differing(observation: Observation, expected: dict[str, Any], actual: dict[str, Any]) -> list[Row]:
    return [
        row for row in observation.rows if row.key in expected and not equal_values(actual[row.key], expected[row.key])
    ]
