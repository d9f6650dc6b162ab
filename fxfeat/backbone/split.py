"""Write the code of a split: features, head, and the head up to and behind its classifiers."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx, nn

from fxfeat.backbone.head import Head, find_head
from fxfeat.backbone.head_places import Place, read_places
from fxfeat.backbone.head_pooling import Pooling, has_class_token, list_layouts, read_pooling
from fxfeat.backbone.position_embeddings import find_channels, record_same_code
from fxfeat.backbone.program import Program, Version, plant_constants
from fxfeat.codegen.emit import emit
from fxfeat.eager.emit_request import emit_request, warn_of_taps
from fxfeat.errors import FxfeatError, RequestError, TraceError
from fxfeat.ir.draft import Draft
from fxfeat.ir.emission import Emission, UsedState
from fxfeat.ir.recording import Recording
from fxfeat.names.query import NamedValue
from fxfeat.names.request import select_feature
from fxfeat.passes.downstream import check_start, start_from
from fxfeat.passes.run_passes import PASSES, rewrite
from fxfeat.trace.setup import Setup, record_mode
from fxfeat.vision.data_flow import draw_memory_flow
from fxfeat.vision.shapes import shape_of

X = "x"
FEATURES = "features"
_NAMES = ("features", "head", "inputs", "after", "rest", "rest_inputs", "at_places")
_Written = dict[str, tuple[Version, UsedState]]


@dataclass(frozen=True)
class Split:
    """What is known of a model's head, apart from its code.

    ``names`` are those of the features: one value, or one for each classifier. ``shapes`` are theirs at the example's
    size, and ``channels`` the axis of each that holds channels. ``places`` is None where a
    classifier's weight is held by no module of its own. ``pooling`` is None where no one value is pooled, and
    ``width`` that of what the model makes of its features up to a classifier; None where it only hands them on.
    """

    names: tuple[str, ...]
    why: str
    shapes: tuple[tuple[int, ...], ...]
    channels: tuple[int, ...]
    places: tuple[Place, ...] | None
    pooling: Pooling | None
    width: int | None


@dataclass(frozen=True)
class Programs:
    """The code of a split. ``inputs`` and ``after`` lie before and behind the classifiers.

    ``rest`` and ``rest_inputs`` begin at what was pooled, ``at_places`` at what was not, as if pooling gave it.
    ``features_use`` and ``head_use`` list the modules and tensors that the code uses.
    """

    features: Program
    head: Program
    inputs: Program
    after: Program
    rest: Program
    rest_inputs: Program
    at_places: Program
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

    programs = {name: program(name) for name in _NAMES}
    return Programs(**programs, features_use=used("features"), head_use=used("head", "inputs", "after"))


def _split_mode(setup: Setup, training: bool) -> tuple[Split, _Written]:
    recording = record_mode(setup, training)
    larger = record_same_code(setup, recording)
    head = find_head(recording, larger)
    shapes = tuple(shape_of(node) for node in head.features)
    channels = tuple(find_channels(node, larger) for node in head.features)
    places = read_places(recording.root, head.classifiers)
    width = None if head.scores is head.features[0] else _width_of(shape_of(_end_of(head)))
    split = Split(head.names, head.why, shapes, channels, places, _find_pooling(recording, head, channels[0]), width)
    return split, _write(setup, recording, training, head)


def _width_of(shape: tuple[int, ...]) -> int:
    """Return how many numbers an embedding has, which a convolution takes as a map of one place."""
    sizes = [size for size in shape[1:] if size > 1]
    return sizes[0] if len(sizes) == 1 else shape[-1]


def _end_of(head: Head) -> fx.Node:
    """Return what goes into the one classifier, or what the model returns without one."""
    return head.classifiers[0].source if len(head.classifiers) == 1 else head.scores


def _find_pooling(recording: Recording, head: Head, channels: int) -> Pooling | None:
    if head.pooled is not None:
        flow = draw_memory_flow(recording)
        return read_pooling(recording, flow, head.features[0], head.pooled, _end_of(head), channels)
    if head.scores is not head.features[0]:
        return None
    shape = shape_of(head.scores)
    return Pooling(None, shape, channels, (shape[0], shape[channels]), has_class_token(recording), False, True, True)


def write_features(setup: Setup, names: Sequence[str]) -> Program:
    """Write the code that leads to the features, in both modes."""
    versions: dict[bool, Version] = {}
    for training in (False, True):
        try:
            versions[training] = _emit_features(setup, training, names).source
        except FxfeatError as error:
            versions[training] = error
    return Program(versions)


def _emit_features(setup: Setup, training: bool, names: Sequence[str]) -> Emission:
    emission = emit_request(setup, training, {str(i): name for i, name in enumerate(names)}, on_model=True)
    plant_constants(setup.model, emission)
    warn_of_taps(setup.engine, type(setup.model).__name__, emission.source)
    return emission


def _write(setup: Setup, recording: Recording, training: bool, head: Head) -> _Written:
    emission = _emit_features(setup, training, head.names)
    sources = {str(i): classifier.source for i, classifier in enumerate(head.classifiers)}
    results = {f"scores_{i}": classifier.result for i, classifier in enumerate(head.classifiers)}
    cut = dict(zip(_parameters(len(head.features)), head.features, strict=True))
    scores = {"scores": head.scores}
    return {
        "features": (emission.source, emission.used_state),
        "head": write_downstream(setup.model, recording, cut, scores, sizes=head.sizes),
        "inputs": write_downstream(setup.model, recording, cut, sources or scores, sizes=head.sizes),
        "after": write_downstream(setup.model, recording, results or {X: head.scores}, scores, head.squashes),
        **_write_rest(setup.model, recording, head, sources or scores),
    }


def _write_rest(root: nn.Module, recording: Recording, head: Head, sources: Mapping[str, fx.Node]) -> _Written:
    """Write the code from what was pooled on, for other poolings and for none."""
    if head.pooled is None:
        missing = RequestError(f"{type(root).__name__} pools no one value.")
        return dict.fromkeys(("rest", "rest_inputs", "at_places"), (missing, UsedState(frozenset(), frozenset())))
    start = {X: head.pooled}
    layouts = list_layouts(recording, draw_memory_flow(recording), head.pooled, _end_of(head))
    return {
        "rest": write_downstream(root, recording, start, {"scores": head.scores}, sizes=head.sizes),
        "rest_inputs": write_downstream(root, recording, start, sources, sizes=head.sizes),
        "at_places": write_downstream(root, recording, start, sources, layouts, sizes=head.sizes),
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
