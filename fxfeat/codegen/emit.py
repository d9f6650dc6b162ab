"""Turn a rewritten draft into an emission."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from fxfeat.codegen.containers import reacher
from fxfeat.codegen.extractor import RESERVED
from fxfeat.codegen.source import write_source
from fxfeat.ir.draft import Draft
from fxfeat.ir.emission import Check, Emission, Row, UsedState
from fxfeat.ir.feature import Feature, values_by_key
from fxfeat.ir.node_meta import TensorMeta, meta_of
from fxfeat.ir.tree import Build, map_nodes, map_structure
from fxfeat.runtime.check import check


def emit(draft: Draft) -> Emission:
    """Write the source of an extractor and list what it keeps of the model."""
    recording = draft.recording
    used_state = _find_used_state(draft)
    receiver = "self" if "self" not in recording.signature.parameters else "extractor"
    reached = UsedState(frozenset(recording.modules), frozenset()) if draft.on_model else used_state
    mine = {each.path for each in recording.replacements if each.path}
    source = write_source(draft, reacher(recording.root, reached, RESERVED, receiver, mine), receiver)
    graph = draft.graph
    with graph.inserting_after(list(graph.nodes)[-1]):
        graph.output(values_by_key(draft.features))
    guards = tuple(Check(str(node.args[2]), node.args[1]) for node in graph.nodes if node.target is check)
    parts: dict[str, list[Feature]] = {}
    for feature in draft.features:
        for key in feature.keys:
            parts.setdefault(key, []).append(feature)
    rows = tuple(_row(key, features) for key, features in parts.items())
    constants = {name: recording.tensors[name] for name in used_state.tensors if name in recording.tensors}
    return Emission(
        source,
        rows,
        guards,
        draft.opened,
        used_state,
        constants,
        graph,
        recording.kind,
        recording.opened,
        told=draft.told,
        told_dtypes=draft.told_dtypes,
        readings=draft.readings,
        replacements=recording.replacements,
    )


def _find_used_state(draft: Draft) -> UsedState:
    calls = {str(node.target) for node in draft.graph.nodes if node.op == "call_module"}
    reached = [node for node in draft.graph.nodes if node.op == "get_attr"]
    containers = {str(node.target) for node in reached if meta_of(node).container} - {""}
    reached_paths = {str(node.target) for node in reached if not meta_of(node).container}
    modules = draft.recording.modules.keys() | {each.path for each in draft.recording.replacements}
    if draft.on_model:
        whole = {call.path for call in draft.tapped_calls}
        calls |= {path for path in modules if "" in whole or path in whole}
        reached_paths |= {name for name in _own_tensors(draft.recording.root) if "" in whole}
    reached_paths |= {f"{node.args[0].target}.{node.args[1]}".lstrip(".") for node in draft.graph.nodes if _sets(node)}
    return UsedState(
        frozenset(calls | (reached_paths & modules)) - {""}, frozenset(reached_paths - modules), frozenset(containers)
    )


def _own_tensors(model: nn.Module) -> set[str]:
    return {*model._parameters, *model._buffers}


def _sets(node: Any) -> bool:
    return node.target is setattr and node.args[0].op == "get_attr"


def _row(key: str, features: list[Feature]) -> Row:
    feature = features[0]
    if feature.listed:
        shapes = [_row(key, [replace(part, listed=False)]).shape for part in features]
        return Row(key, feature.name, shapes, None, replace(feature.origin, every=True) if feature.origin else None)
    measured = map_nodes(feature.value, lambda node: meta_of(node).value)
    if isinstance(measured, TensorMeta):
        return Row(key, feature.name, measured.shape, measured.dtype, feature.origin)
    return Row(key, feature.name, map_structure(measured, _shape), None, feature.origin)


def _shape(part: Any) -> Any:
    if isinstance(part, TensorMeta):
        return part.shape
    return map_structure(dict(part.fields), _shape) if isinstance(part, Build) else part
