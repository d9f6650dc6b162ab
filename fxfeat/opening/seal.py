"""Keep modules whole whose code cannot be written out, and tap what was asked for inside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn

from fxfeat.errors import FxfeatError, TraceError
from fxfeat.ir.feature import Feature, Given, OpOccurrence, Origin
from fxfeat.ir.module_call import ModuleCall, ancestors
from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tap import Tap
from fxfeat.ir.tree import follow, map_nodes, nodes_in
from fxfeat.names.query import parse_query
from fxfeat.opening.features_inside import calls_of_holders

FUNCTION_MODES = "the function modes that are on"
"""What is said to change where a model enters function modes of its own."""


@dataclasses.dataclass(frozen=True)
class Sealed:
    """The module calls that stay whole whatever is asked for, each the outermost, with its path and the reason."""

    reasons: dict[int, tuple[str, str]] = dataclasses.field(default_factory=dict)

    def around(self, recording: Recording, index: int) -> int | None:
        """Return the sealed call that a call is, or lies inside."""
        chain = (index, *ancestors(recording.module_calls, index))
        return next((outer for outer in chain if outer in self.reasons), None)

    def refuse(self, index: int) -> TraceError:
        """Make the error for a sealed call that would have to be opened: then what is around it is sealed."""
        path, reason = self.reasons[index]
        return TraceError(
            f"In {path!r}, {reason}. A value in there that it does not return is needed outside it.",
            path=path,
            reason=reason,
        )


def seal(recording: Recording, tapped: dict[str, str]) -> Sealed:
    """Find the calls of modules that are to stay whole.

    Args:
        recording: the recording.
        tapped: reasons by path of the module.
    """
    modules = {id(recording.modules[path]): (path, reason) for path, reason in tapped.items()}
    inside: set[int] = set()
    reasons: dict[int, tuple[str, str]] = {}
    for call in recording.module_calls:
        if call.parent in inside:
            inside.add(call.index)
        elif call.module in modules and call.path:
            inside.add(call.index)
            reasons[call.index] = modules[call.module]
    return Sealed(reasons)


# -- features ----------------------------------------------------------------------------------------------------------


def tap_inside(recording: Recording, sealed: Sealed, feature: Feature) -> Feature:
    """Say how a feature inside a sealed call is copied out of it.

    Raises:
        TraceError: where the sealed module must be opened for it.
    """
    homes = _homes(recording, sealed, feature)
    home = next(iter(homes))
    if len(homes) > 1 or home is None:
        raise sealed.refuse(next(index for index in homes if index is not None))
    tap = tap_of(recording, feature, home)
    if tap is None:
        raise sealed.refuse(home)
    produced_at = min(feature.produced_at, recording.module_calls[home].stop)
    return dataclasses.replace(feature, tap=tap, whole=home, produced_at=produced_at)


def join_listed(recording: Recording, sealed: Sealed, features: tuple[Feature, ...]) -> tuple[Feature, ...]:
    """Put one feature, that is copied at each call, in the place of each list whose module sealed code may call.

    Raises:
        TraceError: where more than one piece of code may call it: what is around them must be sealed.
    """
    joined: list[Feature] = []
    for feature in features:
        home = _home_of_list(recording, sealed, features, feature) if feature.listed else None
        if home is None:
            joined.append(feature)
        elif all(other.keys != feature.keys for other in joined):
            joined.append(tap_every(recording, [one for one in features if one.keys == feature.keys], home))
    return tuple(joined)


def _home_of_list(recording: Recording, sealed: Sealed, features: tuple[Feature, ...], feature: Feature) -> int | None:
    around = {index: sealed.around(recording, index) for index in calls_of_holders(recording, feature)}
    homes = [home for home in dict.fromkeys(around.values()) if home is not None]
    if not homes:
        return None
    parts = [one for one in features if one.keys == feature.keys]
    callers = {recording.module_calls[_call_of(one)].parent for one in parts}
    if len(homes) > 1 or any(around.get(caller) != homes[0] for caller in callers if caller is not None):
        raise sealed.refuse(homes[0])
    return homes[0]


def _call_of(feature: Feature) -> int:
    return feature.given_to if feature.given_to is not None else feature.module_call or 0


def tap_every(recording: Recording, parts: list[Feature], home: int) -> Feature:
    """Join the values of all calls of a module to one feature, a list that is copied while the module of a call runs.

    Raises:
        TraceError: where they cannot be copied.
    """
    tap, origin = tap_of(recording, parts[0], home), parts[0].origin
    if tap is None or origin is None:
        raise TraceError(f"{parts[0].name!r} cannot be copied out of a running model. Ask for its calls one by one.")
    return dataclasses.replace(
        parts[0],
        value=[measured(part) for part in parts],
        steps=(),
        produced_at=min(max(part.produced_at for part in parts), recording.module_calls[home].stop),
        origin=dataclasses.replace(origin, every=True),
        tap=dataclasses.replace(tap, call=None, every=True),
        whole=home,
        listed=False,
    )


def _homes(recording: Recording, sealed: Sealed, feature: Feature) -> set[int | None]:
    """List the sealed calls that the parts of a feature lie inside; None for a part that lies in none.

    What a module returns lies inside the calls around it.
    """
    if feature.module_call is None and feature.given_to is None:
        return {sealed.around(recording, meta_of(node).module_call) for node in nodes_in(feature.value)}
    parent = recording.module_calls[feature.module_call or feature.given_to or 0].parent
    inside = None if parent is None else sealed.around(recording, parent)
    if inside is not None:
        return {inside}
    return {None, *(sealed.around(recording, meta_of(node).module_call) for node in nodes_in(feature.value))}


def tap_of(recording: Recording, feature: Feature, home: int) -> Tap | None:
    """Say how to tell a feature while the module of call ``home`` runs; None where it cannot be told there.

    Raises:
        TraceError: for a value that neither a module nor a torch function returns.
    """
    origin = feature.origin
    assert origin is not None
    place = origin if origin.path is not None else origin.sign
    if place is None or isinstance(place, Given):
        raise TraceError(
            f"{feature.name!r} can be had from written-out code alone: neither a module nor a function of torch "
            "returns it. Ask for a value that it is made from."
        )
    call, inner = _nth_call(recording, place), paths_inside(recording, home)
    if call is None or call.module not in inner or not _is_inside(recording, call.index, home):
        return None
    check_hookable(_module_of(recording, home), inner[call.module], feature.name, isinstance(place, OpOccurrence))
    calls = [other.index for other in calls_inside(recording, home) if other.module == call.module]
    path, number = inner[call.module], calls.index(call.index)
    if isinstance(place, OpOccurrence):
        if any(other.module not in inner for other in calls_inside(recording, home)):
            return None  # what such modules do would be counted as done by the code that calls them
        if any(
            FUNCTION_MODES in why.reason and _is_inside(recording, why.module_call, home)
            for why in recording.unsupported
        ):
            raise TraceError(
                f"{feature.name!r} is computed where the model enters function modes of its own, which may change what "
                "comes out. Ask for what a module returns."
            )
        total = _count_calls(recording, call, place.function)
        return Tap(feature.name, path, number, place.steps, place.function, place.number, total)
    is_last = len(calls) > 1 and number == len(calls) - 1 and _means_last(recording, feature, call)
    return Tap(feature.name, path, None if is_last else number, origin.steps, is_input=origin.is_input)


def check_hookable(whole: nn.Module, path: str, name: str, inside: bool) -> None:
    """Raise where no hook can copy a value out while a module runs.

    Args:
        whole: the module that runs.
        path: where the module is from there that returns the value, or whose own code computes it.
        name: what was asked for.
        inside: whether it is computed by the module's own code.

    Raises:
        TraceError: naming the compiled module that it lies inside.
    """
    parts = path.split(".") if path else []
    around = [".".join(parts[:count]) for count in range(len(parts) + inside)]
    for outer in around:
        module = whole.get_submodule(outer)
        if isinstance(module, torch._dynamo.OptimizedModule) or module._compiled_call_impl is not None:
            where = repr(outer) if outer else f"the {type(module).__name__}"
            raise TraceError(
                f"{name!r} is inside {where}, which is compiled: no hook can copy it out while that runs. Ask for what "
                "the compiled module returns, or compile the extractor instead."
            )


def _count_calls(recording: Recording, call: ModuleCall, function: str) -> int:
    """Count the calls of a torch function in the own code of a module call."""
    metas = (meta_of(node) for node in recording.nodes[call.start : call.stop])
    occurrences = (meta.occurrence for meta in metas if meta.module_call == call.index and meta.occurrence)
    return max((number + 1 for name, number in occurrences if name == function), default=0)


def _nth_call(recording: Recording, place: Origin | OpOccurrence) -> ModuleCall | None:
    module = id(recording.modules[str(place.path)])
    calls = [call for call in recording.module_calls if call.module == module]
    return calls[place.call] if place.call < len(calls) else None


def _means_last(recording: Recording, feature: Feature, call: ModuleCall) -> bool:
    """Say whether a name stands for whichever call of the module comes last."""
    modules = recording.modules
    try:
        parsed = parse_query(feature.name)
    except FxfeatError:
        return False
    is_bare = (feature.module_call or feature.given_to) is not None and parsed.call is None and not parsed.every
    return is_bare and id(modules.get(parsed.name)) == call.module


def measured(feature: Feature) -> Any:
    """Return what the example gave for a feature."""
    return follow(map_nodes(feature.value, lambda node: meta_of(node).value), feature.steps)


# -- what lies inside --------------------------------------------------------------------------------------------------


def paths_inside(recording: Recording, home: int) -> dict[int, str]:
    """Map the identity of each module of a call's module to the path that leads there from it."""
    return {id(inner): path for path, inner in _module_of(recording, home).named_modules()}


def _module_of(recording: Recording, index: int) -> nn.Module:
    return recording.modules[recording.module_calls[index].path]


def calls_inside(recording: Recording, home: int) -> Iterator[ModuleCall]:
    """Yield a module call and the calls inside it."""
    return (call for call in recording.module_calls[home:] if _is_inside(recording, call.index, home))


def _is_inside(recording: Recording, index: int, home: int) -> bool:
    return home in (index, *ancestors(recording.module_calls, index))


def modules_used(recording: Recording, home: int, end: int) -> frozenset[str]:
    """List the modules whose tensors a sealed call uses before a position, by their paths from its module.

    Where its code takes decisions, modules that the recorded run did not call are listed as well: another may.
    """
    inner = paths_inside(recording, home)
    calls = [call for call in calls_inside(recording, home) if call.module in inner]
    early = [call for call in calls if call.start < end]
    leaves = [inner[call.module] for call in early if call.leaf]
    used = {path for path in inner.values() if any(_is_within(path, leaf) for leaf in leaves)}
    used |= {inner[call.module] for call in early if call.stop <= end}
    used |= _owners_of_tensors(recording, inner, recording.nodes[recording.module_calls[home].start : end])
    if not _decides(recording, home):
        return frozenset(used)
    return frozenset(used | set(inner.values()) - {inner[call.module] for call in calls})


def _is_within(path: str, outer: str) -> bool:
    return not outer or f"{path}.".startswith(f"{outer}.")


def _owners_of_tensors(recording: Recording, inner: dict[int, str], nodes: list[fx.Node]) -> set[str]:
    """List the modules whose tensors are used by operations, without a call of the module."""
    modules = recording.modules
    owners = (modules.get(str(node.target).rpartition(".")[0]) for node in nodes if node.op == "get_attr")
    return {inner[id(owner)] for owner in owners if id(owner) in inner}


def _decides(recording: Recording, home: int) -> bool:
    deciding = {*(guard.module_call for guard in recording.guards), *(why.module_call for why in recording.unsupported)}
    return any(_is_inside(recording, index, home) for index in deciding)
