"""A model's levels, and the code that computes them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from fxfeat.backbone.program import Program, Version, plant_constants
from fxfeat.backbone.split import FEATURES, X, write_downstream
from fxfeat.eager.emit_request import emit_request, warn_of_taps
from fxfeat.errors import FxfeatError, RequestError
from fxfeat.ir.emission import UsedState
from fxfeat.ir.recording import Recording
from fxfeat.names.query import NamedValue, find
from fxfeat.names.request import select_feature
from fxfeat.names.table import name_nodes
from fxfeat.pyramid.feature_info import FeatureInfo
from fxfeat.pyramid.features_only import describe_level
from fxfeat.pyramid.final_norm import find_norm_path, has_final_norm
from fxfeat.pyramid.formats import to_format, tokens_of
from fxfeat.pyramid.search import LevelSearch, search_levels
from fxfeat.trace.setup import Setup, record_mode
from fxfeat.vision.data_flow import draw_memory_flow, find_chain, inputs_of, keep_between
from fxfeat.vision.layout import Layout, Order
from fxfeat.vision.operations import is_dropout, is_layout, is_norm, is_pick
from fxfeat.vision.shapes import is_tensor


@dataclass(frozen=True)
class Levels:
    """The levels of a model and how each holds its map.

    ``names`` are what each is asked for by, ``flat`` says whether the levels are blocks of one resolution. ``norm`` is
    the module of the final norm, where it can be applied to the last level, ``is_normed`` says whether anything norms
    that, and ``features`` how the model's features hold a map, where they do.
    """

    names: tuple[str, ...]
    layouts: tuple[Layout, ...]
    info: FeatureInfo
    flat: bool
    norm: str | None
    is_normed: bool
    features: Layout | None


@dataclass(frozen=True)
class Tail:
    """The code from the last level to the features, and whether it is but a norm."""

    program: Program
    is_norm: bool


def read_levels(setup: Setup, features: str | None) -> Levels:
    """Find the levels of a model, whose features have a name.

    Raises:
        FxfeatError: where it has none.
    """
    search = search_levels(setup)
    info = [describe_level(level, search.maps.extent.batch, "NCHW") for level in search.levels]
    return Levels(
        tuple(level.module for level in search.levels),
        tuple(level.layout for level in search.levels),
        FeatureInfo(info, tuple(range(len(info)))),
        search.flat,
        find_norm_path(search),
        has_final_norm(search),
        None if features is None else _read_layout(search, features),
    )


def _read_layout(search: LevelSearch, name: str) -> Layout | None:
    try:
        return search.maps.layouts.get(_find(search.recording, name))
    except FxfeatError:
        return None


def write_levels(setup: Setup, levels: Levels, last: int, features: str | None) -> tuple[Program, UsedState]:
    """Write the code for the levels up to one, and for the features if their name is given."""
    request = {str(index): levels.names[index] for index in range(last + 1)}
    if features is not None:
        request[FEATURES] = features
    kept = UsedState(frozenset(), frozenset())
    versions: dict[bool, Version] = {}
    for training in (False, True):
        try:
            emission = emit_request(setup, training, request, on_model=True)
        except FxfeatError as error:
            versions[training] = error
            continue
        plant_constants(setup.model, emission)
        warn_of_taps(setup.engine, type(setup.model).__name__, emission.source)
        versions[training], kept = emission.source, kept | emission.used_state
    return Program(versions), kept


def write_tail(setup: Setup, levels: Levels, features: str) -> tuple[Tail, UsedState] | None:
    """Write the code from the last level to the features; None where the one does not lead to the other alone."""
    kept = UsedState(frozenset(), frozenset())
    versions: dict[bool, Version] = {}
    norms = set()
    for training in (False, True):
        try:
            recording = record_mode(setup, training)
            level, cut = (_find(recording, name) for name in (levels.names[-1], features))
        except FxfeatError as error:
            versions[training] = error
            continue
        between = _between(recording, level, cut)
        if between is None:
            return None
        norms.add(_is_norm(recording, between))
        versions[training], used = write_downstream(setup.model, recording, {X: level}, {FEATURES: cut})
        kept = kept | used
    return Tail(Program(versions), norms == {True}), kept


def _find(recording: Recording, name: str) -> fx.Node:
    named = find(recording, name_nodes(recording), name)
    value = select_feature(recording, named, name).value if isinstance(named, NamedValue) else None
    if not isinstance(value, fx.Node) or not is_tensor(value):
        raise RequestError(f"{name!r} is no tensor of its own in this mode.")
    return value


def _between(recording: Recording, level: fx.Node, cut: fx.Node) -> list[fx.Node] | None:
    """List what lies between a level and the features; None where the features also come from elsewhere."""
    if level is cut:
        return []
    flow = draw_memory_flow(recording)
    if level not in find_chain(flow, inputs_of(recording), [cut]):
        return None
    return [node for node in keep_between(flow, [level], [cut]) if node is not level]


def _is_norm(recording: Recording, nodes: list[fx.Node]) -> bool:
    norms = [node for node in nodes if is_norm(recording, node)]
    kinds = (is_norm, is_layout, is_dropout)
    return bool(norms) and all(is_pick(node) or any(kind(recording, node) for kind in kinds) for node in nodes)


def bring(
    value: torch.Tensor, layout: Layout, image: tuple[int, ...], output_fmt: Order
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Bring a level to a format; return its prefix tokens beside it, if it has any."""
    prefix = tokens_of(value, layout)[:, : layout.prefix] if layout.prefix else None
    return to_format(value, layout, image, output_fmt), prefix
