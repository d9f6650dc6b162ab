"""Record a model so that every name of a request has its value in the recording."""

from __future__ import annotations

from collections.abc import Mapping

from fxfeat.ir.feature import Feature
from fxfeat.ir.recording import Recording
from fxfeat.names.query import InsideLeaf, NamedValue, find
from fxfeat.names.request import select_feature
from fxfeat.names.table import name_nodes
from fxfeat.trace.setup import Setup, record_mode


def record_named(setup: Setup, training: bool | None, request: Mapping[str, str]) -> Recording:
    """Record until every leaf that a name lies inside is open."""
    opened: set[str] = set()
    while True:
        recording = record_mode(setup, training, frozenset(opened))
        table = name_nodes(recording)
        values = [find(recording, table, query) for query in request.values()]
        closed = {value.leaf for value in values if isinstance(value, InsideLeaf)}
        if not closed:
            return recording
        opened |= closed


def select_features(recording: Recording, request: Mapping[str, str]) -> tuple[Feature, ...]:
    """Return the features that a request names, each under its key."""
    table = name_nodes(recording)
    values = {key: find(recording, table, query) for key, query in request.items()}
    return tuple(
        select_feature(recording, value, key) for key, value in values.items() if isinstance(value, NamedValue)
    )
