"""Find the classifier: the last linear layer on every path to the scores."""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx
from torch import fx, nn

from fxfeat.ir.module_call import ModuleCall, ancestors
from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.recording import Recording
from fxfeat.vision.data_flow import keep_between
from fxfeat.vision.learnt import is_linear
from fxfeat.vision.operations import (
    function_of,
    is_blend,
    is_dropout,
    is_layout,
    is_norm,
    is_pick,
    is_pool,
    is_squash,
    module_of,
)
from fxfeat.vision.shapes import is_tensor, position_of, shape_of

_USUAL_NAMES = ("fc", "head", "heads", "classifier", "linear", "logits", "last_linear")


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
    recording: Recording, flow: nx.DiGraph, scores: fx.Node, positions: frozenset[fx.Node]
) -> tuple[Classifier, ...] | Blocked:
    """Walk back from the scores, over what has no parameters, to linear layers.

    Between a classifier and the scores may lie pooling, dropout, changes of layout, softmax and arithmetic that joins
    several classifiers; anything else is no classifier's end.
    """
    ends = _walk_back(recording, flow, scores, positions)
    if isinstance(ends, Blocked):
        return ends
    for node in ends:
        if nx.ancestors(flow, node) & set(ends):
            return Blocked(node, f"{_describe(recording, node)}, one of several that build on each other")
    if not ends:
        return Blocked(scores, _describe(recording, scores))
    return tuple(_widen(recording, node, positions) for node in ends)


def _walk_back(
    recording: Recording, flow: nx.DiGraph, scores: fx.Node, positions: frozenset[fx.Node]
) -> list[fx.Node] | Blocked:
    """List the first linear layers on the way back from the scores, as they ran; or what no way leads past."""
    ends: list[fx.Node] = []
    waiting, seen = [scores], set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if is_linear(recording, node, node not in positions):
            ends.append(node)
            continue
        if not _is_passed(recording, node, positions):
            return Blocked(node, _describe(recording, node))
        waiting += [source for source in node.all_input_nodes if source in flow and source.op != "get_attr"]
    return sorted(ends, key=position_of)


def _is_passed(recording: Recording, node: fx.Node, positions: frozenset[fx.Node]) -> bool:
    if function_of(node) in ("relu", "relu_") or isinstance(module_of(recording, node), nn.ReLU):
        return node in positions
    weights = [source for source in node.all_input_nodes if source.op == "get_attr"]
    if is_blend(node):
        return all(is_tensor(weight) and shape_of(weight) in ((), (1,)) for weight in weights)
    kinds = (is_dropout, is_layout, is_pool, is_squash)
    return is_pick(node) or any(kind(recording, node) for kind in kinds)


def find_removed(recording: Recording, scores: fx.Node, positions: frozenset[fx.Node]) -> tuple[Classifier, ...]:
    """Find where a classifier was removed, or never put: an identity that makes the result of what was pooled.

    Of several in a row it is the one that is called as classifiers are, else the first.
    """
    ends: list[fx.Node] = []
    node = scores
    while isinstance(module_of(recording, node), nn.Identity) and len(shape_of(node)) == 2 and node not in positions:
        ends.insert(0, node)
        node = node.all_input_nodes[0]
    named = [end for end in ends if str(end.target).rpartition(".")[2] in _USUAL_NAMES]
    chosen = next(iter((*named, *ends)), None)
    if chosen is None:
        return ()
    path = str(chosen.target)
    return (Classifier(chosen.all_input_nodes[0], chosen, path, path),)


def find_between(flow: nx.DiGraph, classifiers: tuple[Classifier, ...], scores: fx.Node) -> set[fx.Node]:
    """Find the nodes that lead from the classifiers to the scores."""
    results = [classifier.result for classifier in classifiers]
    return set(keep_between(flow, results, [scores])) - set(results)


def _describe(recording: Recording, node: fx.Node) -> str:
    if node.op == "placeholder":
        return f"the input {node.name!r}"
    module = module_of(recording, node)
    if module is not None:
        return f"{type(module).__name__} {str(node.target)!r}"
    path = recording.module_calls[meta_of(node).module_call].path
    return f"{function_of(node) or node.op}{f' in {path!r}' if path else ''}"


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
        entry = next((given for given in _tensors_of(outer) if given not in positions), None)
        if entry is not None:
            return Classifier(entry, node, outer.path, layer)
    return Classifier(source, node, layer, layer)


def _input_of(node: fx.Node, positions: frozenset[fx.Node]) -> fx.Node:
    values = [source for source in node.all_input_nodes if source.op != "get_attr" and is_tensor(source)]
    computed = [source for source in values if not meta_of(source).constant]
    return [*computed, *values, *node.all_input_nodes][0]


def _tensors_of(module_call: ModuleCall) -> list[fx.Node]:
    given = (*module_call.args, *module_call.kwargs.values())
    return [value for value in given if isinstance(value, fx.Node) and is_tensor(value)]


def _only_norms(recording: Recording, module_call: ModuleCall, layer: fx.Node) -> bool:
    """Say whether a module does nothing but norm, drop and apply one linear layer."""
    nodes = recording.nodes[module_call.start : module_call.stop]
    inside = [node for node in nodes if node.op != "get_attr" and is_tensor(node)]
    norms = [node for node in inside if is_norm(recording, node)]
    rest = [node for node in inside if node is not layer and node not in norms and not is_dropout(recording, node)]
    return bool(norms) and not rest and len(_tensors_of(module_call)) == 1
