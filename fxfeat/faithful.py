"""Find out whether emitted code gives what the model does, where modules may hand things on to each other in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fxfeat.eager import Sight, is_meta, is_operation, lend, see
from fxfeat.emit.extractor import Emission, Forms, Row, build_extractor
from fxfeat.errors import FxfeatError
from fxfeat.record.photograph import Photograph
from fxfeat.record.random_state import RandomState, read_random, restore_random
from fxfeat.record.recording import Recording
from fxfeat.record.structure import copy_tensors
from fxfeat.record.untouched import untouched
from fxfeat.repeats import equal_values, see_all
from fxfeat.rewrite.draft import Draft

_CALLS = 2


def may_hand_on(recording: Recording, draft: Draft) -> bool:
    """Say whether code changes what Python holds, or uses what it was not given."""
    return bool(recording.settings or recording.changed or recording.altered or draft.handed_on)


def is_faithful(model: nn.Module, sight: Sight, emission: Emission, tracer_kwargs: dict[str, Any]) -> bool:
    """Say whether code gives on an example, twice in turn, what the model gives; True where either refuses the example.

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
        try:
            expected = _repeat(lambda: see_all(model, before, sight), random)
        except Exception:
            return True
        before.restore()
        try:
            found = _repeat(_caller(emission, model, before, sight, tracer_kwargs), random)
        except FxfeatError:
            return True
        except Exception:
            return False
        wrong = _differing(sight, expected[0], found[0])
        if wrong and all(map(is_operation, wrong)):
            # Counting calls may have told another operation; a recording is sure.
            before.restore()
            restore_random(random)
            see(model, before, sight.only(wrong), lambda row, value: expected[0].update({row.key: copy_tensors(value)}))
            wrong = _differing(sight, expected[0], found[0])
        modules = sight.only(row for row in sight.rows if not is_operation(row))
        return not wrong and not _differing(modules, expected[-1], found[-1])


def _repeat(call: Callable[[], dict[str, Any]], random: RandomState) -> list[dict[str, Any]]:
    """Call twice with the same random numbers: code draws none of those that come after the last feature."""
    found: list[dict[str, Any]] = []
    for _ in range(_CALLS):
        restore_random(random)
        found.append(call())
    return found


def _caller(
    emission: Emission, model: nn.Module, before: Photograph, sight: Sight, tracer_kwargs: dict[str, Any]
) -> Callable[[], dict[str, Any]]:
    """Return what calls the code, in the mode that it was recorded in."""
    extractor = build_extractor(Forms(emission, emission, None), model, tracer_kwargs)
    if sight.training is not None:
        model.train(sight.training)

    def call() -> dict[str, Any]:
        with lend(extractor, before, sight):
            found: dict[str, Any] = extractor(*copy_tensors(sight.example.args), **copy_tensors(sight.example.kwargs))
        return found

    return call


def _differing(sight: Sight, expected: dict[str, Any], found: dict[str, Any]) -> list[Row]:
    return [row for row in sight.rows if row.key in expected and not equal_values(found[row.key], expected[row.key])]
