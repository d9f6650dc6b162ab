"""Record a model so that every name of a request has its value in the recording."""

from __future__ import annotations

from dataclasses import replace

import torch

from fxfeat.ir.feature import Feature
from fxfeat.ir.module_call import ModuleCall
from fxfeat.ir.recording import Recording
from fxfeat.names.query import InsideLeaf, NamedValue, find_every
from fxfeat.names.request import select_feature
from fxfeat.names.several import Names, Request, Several, expand, reaches
from fxfeat.names.table import name_nodes
from fxfeat.trace.setup import Setup, record_mode


def record_named(setup: Setup, training: bool | None, request: Request) -> Recording:
    """Record until every leaf that a name lies inside is open."""
    named: set[str] = set()
    # Leaves with modules that a pattern matches, and those in which none of these is called.
    matched: set[str] = set()
    idle: set[str] = set()
    while True:
        recording = record_mode(setup, training, frozenset(named | matched - idle))
        more = _leaves_around(recording, request) - idle
        matched |= more
        vain = set() if more else {leaf for leaf in matched - idle if not _is_used(recording, request, leaf)}
        idle |= vain
        if more or vain:
            continue
        closed = {value.leaf for _, value in _find_all(recording, request) if isinstance(value, InsideLeaf)}
        if not closed:
            return recording
        named |= closed


def select_features(recording: Recording, request: Request) -> tuple[Feature, ...]:
    """Return the features that a request names, each under its key."""
    features: list[Feature] = []
    for key, value in _find_all(recording, request):
        if isinstance(value, NamedValue):
            feature = select_feature(recording, value, key)
            features.append(replace(feature, listed="@*" in value.query))
    return tuple(features)


def _find_all(recording: Recording, request: Request) -> list[tuple[str, NamedValue | InsideLeaf]]:
    """Find what each name stands for, which is one value for each call where all were asked for."""
    table = name_nodes(recording)
    mode = "train" if recording.training else "eval"
    calls = tuple((call.path, call.module) for call in recording.module_calls)
    names = expand(Names(recording.root, calls, tuple(table.listed), mode), request)
    return [(key, value) for key, query in names.items() for value in find_every(recording, table, query)]


def _leaves_around(recording: Recording, request: Request) -> set[str]:
    """List the leaves that modules lie inside which a pattern or a class reaches."""
    asked = [several for several in request.values() if isinstance(several, Several)]
    leaves = (
        {call.path for call in recording.module_calls if call.leaf and _has_python(recording, call)} if asked else ()
    )
    return {path for path in leaves if any(_reaches_into(recording, several, path) for several in asked)}


def _has_python(recording: Recording, call: ModuleCall) -> bool:
    return not isinstance(recording.root.get_submodule(call.path), torch.jit.ScriptModule)


def _reaches_into(recording: Recording, several: Several, leaf: str) -> bool:
    inner = recording.root.get_submodule(leaf).named_modules(prefix=leaf)
    return any(path != leaf and reaches(recording.root, several, path) for path, _ in inner)


def _is_used(recording: Recording, request: Request, leaf: str) -> bool:
    """Say whether anything that a pattern or a class reaches is called inside a leaf."""
    several = [query for query in request.values() if isinstance(query, Several)]
    called = [call.path for call in recording.module_calls if call.path.startswith(f"{leaf}.")]
    return any(reaches(recording.root, one, path) for one in several for path in called)
