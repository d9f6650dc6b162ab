"""Write the code of a split: features, head, and the head up to and behind its classifiers."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx, nn

from fxfeat.api import emit_request, warn_of_taps
from fxfeat.backbone.head import Head, find_head
from fxfeat.backbone.head_places import Place, read_places
from fxfeat.backbone.position_embeddings import find_channels, record_same_code
from fxfeat.backbone.program import Program, Version, plant_constants
from fxfeat.codegen.emit import emit
from fxfeat.errors import FxfeatError, TraceError
from fxfeat.ir.draft import Draft
from fxfeat.ir.emission import UsedState
from fxfeat.ir.recording import Recording
from fxfeat.names.query import NamedValue
from fxfeat.names.request import select_feature
from fxfeat.passes.downstream import check_start, start_from
from fxfeat.passes.run_passes import PASSES, rewrite
from fxfeat.trace.setup import Setup, record_mode
from fxfeat.vision.shapes import shape_of

X = "x"
FEATURES = "features"
_NAMES = ("features", "head", "inputs", "after")
_Written = dict[str, tuple[Version, UsedState]]


@dataclass(frozen=True)
class Split:
    """What is known of a model's head, apart from its code.

    ``names`` are those of the features: one value, or one for each classifier. ``shapes`` are theirs at the example's
    size, and ``channels`` the axis of each that holds channels. ``places`` is None where a
    classifier's weight is held by no module of its own.
    """

    names: tuple[str, ...]
    why: str
    shapes: tuple[tuple[int, ...], ...]
    channels: tuple[int, ...]
    places: tuple[Place, ...] | None


@dataclass(frozen=True)
class Programs:
    """The code of a split. ``inputs`` and ``after`` lie before and behind the classifiers.

    ``features_use`` and ``head_use`` list the modules and tensors that the code uses.
    """

    features: Program
    head: Program
    inputs: Program
    after: Program
    features_use: UsedState
    head_use: UsedState


def split_model(setup: Setup) -> tuple[Split, Programs]:
    """Find the head in each mode and write its code; what is told of it is that of eval mode, if there is one.

    Raises:
        FxfeatError: where neither mode can be split.
    """
    written: dict[bool, _Written] = {}
    splits: dict[bool, Split] = {}
    errors: dict[bool, FxfeatError] = {}
    for training in (False, True):
        try:
            splits[training], written[training] = _split_mode(setup, training)
        except FxfeatError as error:
            errors[training] = error
    if not splits:
        raise errors[False]
    return splits[min(splits)], _collect(written, errors)


def _collect(written: dict[bool, _Written], errors: dict[bool, FxfeatError]) -> Programs:
    def program(name: str) -> Program:
        return Program({**{mode: parts[name][0] for mode, parts in written.items()}, **errors})

    def used(*names: str) -> UsedState:
        every = [parts[name][1] for parts in written.values() for name in names]
        return functools.reduce(operator.or_, every)

    features, head, inputs, after = map(program, _NAMES)
    return Programs(features, head, inputs, after, used("features"), used("head", "inputs", "after"))


def _split_mode(setup: Setup, training: bool) -> tuple[Split, _Written]:
    recording = record_mode(setup, training)
    larger = record_same_code(setup, recording)
    head = find_head(recording, larger)
    shapes = tuple(shape_of(node) for node in head.features)
    channels = tuple(find_channels(node, larger) for node in head.features)
    split = Split(head.names, head.why, shapes, channels, read_places(recording.root, head.classifiers))
    return split, _write(setup, recording, training, head)


def _write(setup: Setup, recording: Recording, training: bool, head: Head) -> _Written:
    emission = emit_request(setup, training, {str(i): name for i, name in enumerate(head.names)}, on_model=True)
    plant_constants(setup.model, emission)
    warn_of_taps(setup, emission.source)
    sources = {str(i): classifier.source for i, classifier in enumerate(head.classifiers)}
    results = {f"scores_{i}": classifier.result for i, classifier in enumerate(head.classifiers)}
    cut = dict(zip(_parameters(len(head.features)), head.features, strict=True))
    scores = {"scores": head.scores}
    return {
        "features": (emission.source, emission.used_state),
        "head": write_downstream(setup.model, recording, cut, scores, sizes=head.sizes),
        "inputs": write_downstream(setup.model, recording, cut, sources or scores, sizes=head.sizes),
        "after": write_downstream(setup.model, recording, results or {X: head.scores}, scores, head.squashes),
    }


def _parameters(count: int) -> list[str]:
    return [X] if count == 1 else [f"{X}_{index}" for index in range(count)]


def draft_of(recording: Recording, wanted: Mapping[str, fx.Node]) -> Draft:
    """Ask a recording for some values by key, as code that runs on the model's own modules."""
    features = tuple(select_feature(recording, NamedValue(key, node, None), key) for key, node in wanted.items())
    return Draft(recording, recording.graph, features, on_model=True)


def write_downstream(
    root: nn.Module,
    recording: Recording,
    sources: Mapping[str, fx.Node],
    wanted: Mapping[str, fx.Node],
    passed: frozenset[fx.Node] = frozenset(),
    sizes: Mapping[fx.Node, int] | None = None,
) -> tuple[Version, UsedState]:
    """Write the code from some inner values to others, or say why it cannot be written; list what it uses."""
    behind = start_from(recording, sources, passed, sizes or {})
    draft = draft_of(behind.recording, {key: behind.copies[node] for key, node in wanted.items()})
    try:
        emission = emit(rewrite(draft, (*PASSES, check_start))[0])
    except TraceError as error:
        return error, UsedState(frozenset(), frozenset())
    plant_constants(root, emission)
    return emission.source, emission.used_state
