"""Record a model so that every name of a request has its value in the recording."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from fxfeat.errors import NodeNotFoundError, TraceError
from fxfeat.ir.feature import Feature, OpOccurrence
from fxfeat.ir.recording import Recording
from fxfeat.ir.value_replacement import Replacement
from fxfeat.names.query import InsideLeaf, NamedValue, find
from fxfeat.names.replaced import spell_before
from fxfeat.names.request import select_feature
from fxfeat.names.table import name_nodes
from fxfeat.trace.setup import Setup, record_mode


def record_named(setup: Setup, training: bool | None, request: Mapping[str, str]) -> Recording:
    """Record until every leaf that a name lies inside is open, and with the values replaced that are to be."""
    if not setup.replace:
        return _record_open(setup, training, request.values())
    plain = _record_open(setup, training, setup.replace)
    replaced = _record_open(setup, training, request.values(), plain.opened, _place_replacements(setup, plain))
    seen = {each.replacement.name for each in replaced.replaced}
    missing = next((name for name in setup.replace if name not in seen), None)
    if missing is not None:
        raise TraceError(
            f"{missing!r} in replace= does not run in {type(setup.model).__name__} where the values before it are "
            "replaced as well: the model then takes another path. Replace them in extractors of their own."
        )
    return replaced


def _record_open(
    setup: Setup,
    training: bool | None,
    queries: Iterable[str],
    opened: frozenset[str] = frozenset(),
    replacements: tuple[Replacement, ...] = (),
) -> Recording:
    while True:
        recording = record_mode(setup, training, opened, replacements)
        table = name_nodes(recording)
        values = [find(recording, table, query) for query in queries]
        closed = {value.leaf for value in values if isinstance(value, InsideLeaf)}
        if not closed:
            return recording
        opened |= closed


def _place_replacements(setup: Setup, recording: Recording) -> tuple[Replacement, ...]:
    """Find where the values are that are to be replaced, in a recording in which none is."""
    table, home = name_nodes(recording), setup.name_for_replacements
    modules = [function for function in setup.replace.values() if isinstance(function, nn.Module)]
    placed: list[Replacement] = []
    for name, function in setup.replace.items():
        value = find(recording, table, name)
        assert isinstance(value, NamedValue)
        feature = select_feature(recording, value, name)
        origin = feature.origin
        if origin is None or (origin.path is None and not isinstance(origin.sign, OpOccurrence)):
            raise NodeNotFoundError(_explain_no_place(recording, feature))
        path = f"{home}.{modules.index(function)}" if isinstance(function, nn.Module) else ""
        placed.append(Replacement(name, function, path, origin, spell_before(feature)))
    return tuple(placed)


def _explain_no_place(recording: Recording, feature: Feature) -> str:
    if feature.name in recording.signature.parameters:
        return f"{feature.name!r} in replace= is an input. Call the extractor with another one instead."
    return (
        f"{feature.name!r} in replace= can be read, but not replaced: neither a module nor a function of torch returns "
        "it. Name what it is computed from, or what is computed from it."
    )


def select_features(recording: Recording, request: Mapping[str, str]) -> tuple[Feature, ...]:
    """Return the features that a request names, each under its key."""
    table = name_nodes(recording)
    values = {key: find(recording, table, query) for key, query in request.items()}
    return tuple(
        select_feature(recording, value, key) for key, value in values.items() if isinstance(value, NamedValue)
    )
