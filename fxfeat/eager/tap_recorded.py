"""Tap a whole model: its own code runs, and nothing of it is written out."""

from __future__ import annotations

import dataclasses

from torch import fx

from fxfeat.analysis.dependencies import find_needed, map_dependencies
from fxfeat.eager.tapped_code import emit_tapped
from fxfeat.errors import UNSEEN_STATE, TraceError
from fxfeat.ir.draft import Draft
from fxfeat.ir.emission import Emission
from fxfeat.ir.example import Example
from fxfeat.ir.feature import Feature, Given
from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tap import TappedCall
from fxfeat.opening.plan import is_looked_at
from fxfeat.opening.seal import measured, modules_used, tap_every, tap_of


def tap_recorded(
    recording: Recording,
    features: list[Feature],
    example: Example,
    reason: str,
    on_model: bool = False,
    may_stop: bool = True,
) -> Emission:
    """Emit an extractor that runs a whole model, of which a recording tells the names.

    Args:
        recording: the recording.
        features: what is wanted of it.
        example: what it was recorded with.
        reason: why the model runs whole.
        on_model: write code that runs on the model's own tree of modules.
        may_stop: whether the run may be stopped behind the last value.

    Raises:
        TraceError: for a value that cannot be copied out of a running model.
    """
    moved = [_tap(recording, part) for part in _join_listed(recording, features)]
    inner = [feature for feature in moved if feature.tap is not None]
    end = max((feature.produced_at for feature in inner), default=0)
    stops = may_stop and bool(inner) and reason != UNSEEN_STATE and _may_stop(recording, inner, end)
    used = modules_used(recording, 0, end if stops else recording.module_calls[0].stop)
    taps = tuple(dict.fromkeys(feature.tap for feature in inner if feature.tap is not None))
    call = TappedCall("", "", reason, taps, stops, used)
    values = {feature.name: measured(feature) for feature in inner}
    emission = emit_tapped(Draft(recording, fx.Graph(), tuple(moved), on_model=on_model), call, example, values)
    return dataclasses.replace(emission, writes_parameters=recording.writes_parameters)


def _join_listed(recording: Recording, features: list[Feature]) -> list[Feature]:
    lists = {part.keys: [other for other in features if other.keys == part.keys] for part in features if part.listed}
    joined = {keys: tap_every(recording, parts, 0) for keys, parts in lists.items()}
    return list({part.keys: joined.get(part.keys, part) for part in features}.values())


def _tap(recording: Recording, feature: Feature) -> Feature:
    if feature.tap is not None:
        return feature
    origin = feature.origin
    if origin is not None and origin.path is None and isinstance(origin.sign, Given):
        return feature
    tap = tap_of(recording, feature, 0)
    if tap is None:
        raise TraceError(f"{feature.name!r} cannot be copied out of a running model. Ask for a module's result.")
    return dataclasses.replace(feature, tap=tap, whole=0)


def _may_stop(recording: Recording, features: list[Feature], end: int) -> bool:
    """Say whether what the model does behind the last value matters to no later call."""
    if any(feature.tap is None or feature.tap.call is None or not feature.tap.path for feature in features):
        return False
    if is_looked_at(recording, recording.module_calls[0], end) or recording.acts_on_gradients_after(end):
        return False
    if (
        recording.changed_attributes
        or recording.mutated
        or any(write.position >= end for write in recording.attribute_writes)
    ):
        return False
    needed = find_needed(recording, map_dependencies(recording.nodes), tuple(features))
    return all(meta_of(node).position < end for node in needed)
