"""Which modules a feature lies strictly inside: those have to be opened for it."""

from __future__ import annotations

import dataclasses

from torch import fx

from fxfeat.ir.feature import Feature
from fxfeat.ir.module_call import ModuleCall, ancestors
from fxfeat.ir.node_meta import Storage, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import map_nodes, nodes_in


def enter(recording: Recording, feature: Feature) -> tuple[Feature, set[int]]:
    """Find the outermost module that hands each part of a feature out; everything around it is opened."""
    inside: set[int] = set()
    produced_at = feature.produced_at
    feature = _as_given(recording, feature)
    nodes = nodes_in(feature.value)
    for node in nodes:
        returning_call = _returning_call(recording, feature, node)
        if returning_call is None:
            inside |= set(_chain(recording, meta_of(node).module_call))
            continue
        inside |= set(ancestors(recording.module_calls, returning_call))
        produced_at = max(produced_at, recording.module_calls[returning_call].stop)
    if feature.module_call is not None and not nodes:
        inside |= set(ancestors(recording.module_calls, feature.module_call))
    if feature.given_to is not None:
        inside |= _around_input(recording, feature, feature.given_to)
    if feature.listed:
        inside |= calls_of_holders(recording, feature)
    return dataclasses.replace(feature, produced_at=produced_at), inside


def _around_input(recording: Recording, feature: Feature, index: int) -> set[int]:
    """List the calls whose code makes what a module is called with, itself among them if its hooks do."""
    is_made_by_hooks = feature.produced_at > recording.module_calls[index].start
    return set(_chain(recording, index) if is_made_by_hooks else ancestors(recording.module_calls, index))


def calls_of_holders(recording: Recording, feature: Feature) -> set[int]:
    """List the calls of modules that hold the one which is listed: each may call it, and go by anything in that."""
    assert feature.origin is not None
    module = recording.modules[str(feature.origin.path)]
    holding = {
        id(outer) for outer in recording.root.modules() if outer is not module and module in set(outer.modules())
    }
    return {call.index for call in recording.module_calls if call.module in holding}


def returns(module_call: ModuleCall, node: fx.Node) -> bool:
    """Say whether a node is a module call's result, or a part of it."""
    return module_call.result is node or any(returned is node for _, returned in module_call.result_nodes)


def _chain(recording: Recording, module_call: int) -> list[int]:
    """List a module call and those around it, from the inside out."""
    return [module_call, *ancestors(recording.module_calls, module_call)]


def _as_given(recording: Recording, feature: Feature) -> Feature:
    """Trace tensors back to before the modules inside wrote to them: ``block(x)`` as a statement, then ``return x``.

    The tensor is the same, and the module does not hand it out.
    """

    def as_given(node: fx.Node) -> fx.Node:
        before, inner = meta_of(node).same_as, _below(recording, feature.module_call, meta_of(node).module_call)
        if before is None or inner is None or returns(recording.module_calls[inner], node):
            return node
        return as_given(before)

    if feature.module_call is None or all(as_given(node) is node for node in nodes_in(feature.value)):
        return feature
    return dataclasses.replace(feature, value=map_nodes(feature.value, as_given))


def _below(recording: Recording, outer: int | None, module_call: int) -> int | None:
    """Return the module call right inside ``outer`` that is around ``module_call`` or is it, if there is one."""
    chain = _chain(recording, module_call)
    return chain[chain.index(outer) - 1] if outer in chain[1:] else None


def _returning_call(recording: Recording, feature: Feature, node: fx.Node) -> int | None:
    """Return the outermost module call that returns ``node`` as the feature wants it, by straight-line code."""
    chain = _chain(recording, meta_of(node).module_call)
    if feature.module_call and feature.module_call in chain:
        chain = chain[chain.index(feature.module_call) :]
    deciding = {guard.module_call for guard in recording.guards}
    deciding |= {step.module_call for step in recording.unsupported}
    returning_call: int | None = None
    for index in chain[:-1]:
        # What the model returns is what its part returned, whatever that part decided.
        is_straight = index not in deciding or feature.module_call in (0, index)
        if not is_straight or not _hands_out(recording, recording.module_calls[index], node, feature):
            break
        returning_call = index
    return returning_call


def _hands_out(recording: Recording, module_call: ModuleCall, node: fx.Node, feature: Feature) -> bool:
    """Say whether a module returns a node when no part of the feature has been written over yet."""
    if not module_call.path or not returns(module_call, node):
        return False
    memory = frozenset[Storage]().union(*(meta_of(part).aliases for part in nodes_in(feature.value)))
    return not any(meta_of(later).writes & memory for later in recording.nodes[feature.produced_at : module_call.stop])
