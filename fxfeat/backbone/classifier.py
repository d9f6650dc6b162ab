"""Find the classifier: the last linear layer on every path to the scores."""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx
from torch import fx, nn

from fxfeat.backbone.operations import (
    is_blend,
    is_drop,
    is_layout,
    is_linear,
    is_norm,
    is_pick,
    is_pool,
    is_squash,
    module_of,
    name_of,
)
from fxfeat.ir.module_call import (
    ModuleCall,
    ancestors,
)
from fxfeat.ir.node_meta import (
    TensorMeta,
    meta_of,
)
from fxfeat.ir.recording import Recording


@dataclass(frozen=True)
class Classifier:
    """One linear layer that makes scores.

    ``source`` is the value that goes in and ``result`` the one that comes out. ``path`` is the module that is
    replaced to remove it, ``layer`` the linear layer inside; both are None where no module holds the weight.
    """

    source: fx.Node
    result: fx.Node
    path: str | None
    layer: str | None


@dataclass(frozen=True)
class Blocked:
    """What was found where a classifier was looked for."""

    node: fx.Node
    what: str


def find_classifiers(
    recording: Recording, drawn: nx.DiGraph, scores: fx.Node, positions: frozenset[fx.Node]
) -> tuple[Classifier, ...] | Blocked:
    """Walk back from the scores, over what has no parameters, to linear layers.

    Between a classifier and the scores may lie pooling, dropout, changes of layout, softmax and arithmetic that joins
    several classifiers; anything else is no classifier's end.
    """
    found: dict[fx.Node, None] = {}
    waiting, seen = [scores], set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if is_linear(recording, node, node not in positions):
            found[node] = None
        elif _is_passed(recording, node, positions):
            waiting += [held for held in node.all_input_nodes if _is_followed(drawn, held)]
        else:
            return Blocked(node, _describe(recording, node))
    ordered = sorted(found, key=lambda node: meta_of(node).position)
    for node in ordered:
        earlier = nx.ancestors(drawn, node) & set(ordered)
        if earlier:
            return Blocked(node, f"{_describe(recording, node)}, one of several that build on each other")
    if not ordered:
        return Blocked(scores, _describe(recording, scores))
    return tuple(_widen(recording, node, positions) for node in ordered)


def find_between(drawn: nx.DiGraph, classifiers: tuple[Classifier, ...], scores: fx.Node) -> set[fx.Node]:
    """Find the nodes that lead from the classifiers to the scores."""
    after = {node for held in classifiers for node in nx.descendants(drawn, held.result)}
    return after & (nx.ancestors(drawn, scores) | {scores})


def _is_followed(drawn: nx.DiGraph, node: fx.Node) -> bool:
    return node in drawn and node.op != "get_attr"


def _is_passed(recording: Recording, node: fx.Node, positions: frozenset[fx.Node]) -> bool:
    if name_of(node) in ("relu", "relu_") or isinstance(module_of(recording, node), nn.ReLU):
        return node in positions
    if is_blend(node) and not all(_is_number_like(held) for held in node.all_input_nodes if held.op == "get_attr"):
        return False
    kinds = (is_drop, is_layout, is_pool, is_squash)
    return is_pick(node) or is_blend(node) or any(kind(recording, node) for kind in kinds)


def _is_number_like(node: fx.Node) -> bool:
    value = meta_of(node).value
    return isinstance(value, TensorMeta) and value.shape in ((), (1,))


def _describe(recording: Recording, node: fx.Node) -> str:
    if node.op == "placeholder":
        return f"the input {node.name!r}"
    module = module_of(recording, node)
    if module is not None:
        return f"{type(module).__name__} {str(node.target)!r}"
    path = recording.module_calls[meta_of(node).module_call].path
    return f"{name_of(node) or node.op}{f' in {path!r}' if path else ''}"


def _widen(recording: Recording, node: fx.Node, positions: frozenset[fx.Node]) -> Classifier:
    """Find the module that holds the layer; one that only norms before it counts as the classifier."""
    source = _input_of(node, positions)
    module_call = recording.module_calls[meta_of(node).module_call]
    if module_call.result is not node or not module_call.path:
        return Classifier(source, node, None, None)
    layer = module_call.path
    around = ancestors(recording.module_calls, module_call.index)
    outer = recording.module_calls[around[0]] if around else module_call
    if outer.path and outer.result is node and _only_norms(recording, outer, node):
        entry = next((held for held in _tensors_of(outer) if held not in positions), None)
        if entry is not None:
            return Classifier(entry, node, outer.path, layer)
    return Classifier(source, node, layer, layer)


def _input_of(node: fx.Node, positions: frozenset[fx.Node]) -> fx.Node:
    known = [held for held in node.all_input_nodes if held.op != "get_attr" and _is_tensor(held)]
    return next((held for held in known if not meta_of(held).constant), known[0] if known else node.all_input_nodes[0])


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(meta_of(node).value, TensorMeta)


def _tensors_of(module_call: ModuleCall) -> list[fx.Node]:
    return [
        held
        for held in (*module_call.args, *module_call.kwargs.values())
        if isinstance(held, fx.Node) and _is_tensor(held)
    ]


def _only_norms(recording: Recording, module_call: ModuleCall, layer: fx.Node) -> bool:
    """Say whether a module does nothing but norm, drop and apply one linear layer."""
    inside = [
        node
        for node in recording.nodes[module_call.start : module_call.stop]
        if node.op != "get_attr" and _is_tensor(node)
    ]
    norms = [node for node in inside if is_norm(recording, node)]
    rest = [node for node in inside if node is not layer and node not in norms and not is_drop(recording, node)]
    return bool(norms) and not rest and len(_tensors_of(module_call)) == 1
