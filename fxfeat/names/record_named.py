"""Record a model so that every name of a request has its value in the recording."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from fxfeat.errors import NodeNotFoundError, TraceError
from fxfeat.ir.feature import Feature, OpOccurrence
from fxfeat.ir.module_call import ModuleCall
from fxfeat.ir.recording import Recording
from fxfeat.ir.value_replacement import Replacement
from fxfeat.names.query import InsideLeaf, NamedValue, find, find_every
from fxfeat.names.replaced import spell_before
from fxfeat.names.request import select_feature
from fxfeat.names.several import Names, Request, Several, expand, reaches
from fxfeat.names.table import name_nodes
from fxfeat.trace.setup import Setup, record_mode


def record_named(setup: Setup, training: bool | None, request: Request) -> Recording:
    """Record until every leaf that a name lies inside is open, and with the values replaced that are to be."""
    if not setup.replace:
        return _record_open(setup, training, request)
    plain = _record_open(setup, training, {name: name for name in setup.replace})
    replaced = _record_open(setup, training, request, plain.opened, _place_replacements(setup, plain))
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
    request: Request,
    opened: frozenset[str] = frozenset(),
    replacements: tuple[Replacement, ...] = (),
) -> Recording:
    named = set(opened)
    # Leaves with modules that a pattern matches, and those in which none of these is called.
    matched: set[str] = set()
    idle: set[str] = set()
    while True:
        recording = record_mode(setup, training, frozenset(named | matched - idle), replacements)
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
        if feature.given_to is not None:
            raise NodeNotFoundError(
                f"{name!r} in replace= is what a module is called with, which can be read but not replaced. Name what "
                "it is computed from, or wrap the module in one that changes its input first."
            )
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
    return not isinstance(recording.modules[call.path], torch.jit.ScriptModule)


def _reaches_into(recording: Recording, several: Several, leaf: str) -> bool:
    inner = recording.modules[leaf].named_modules(prefix=leaf)
    return any(path != leaf and reaches(recording.root, several, path) for path, _ in inner)


def _is_used(recording: Recording, request: Request, leaf: str) -> bool:
    """Say whether anything that a pattern or a class reaches is called inside a leaf."""
    several = [query for query in request.values() if isinstance(query, Several)]
    called = [call.path for call in recording.module_calls if call.path.startswith(f"{leaf}.")]
    return any(reaches(recording.root, one, path) for one in several for path in called)
