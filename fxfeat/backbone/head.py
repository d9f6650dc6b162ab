"""Find where a model's features end and its head begins."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import networkx as nx
from torch import fx

from fxfeat.backbone.classifier import Blocked, Classifier, find_between, find_classifiers, find_removed
from fxfeat.backbone.cut import find_cut
from fxfeat.backbone.head_pooling import find_pooled
from fxfeat.backbone.position_embeddings import (
    find_channels,
    find_constant_sizes,
    find_positions,
    record_same_code,
)
from fxfeat.errors import FxfeatError, RequestError
from fxfeat.ir.recording import Recording
from fxfeat.names.table import name_nodes
from fxfeat.trace.setup import Setup, record_mode
from fxfeat.vision.data_flow import draw_memory_flow, find_chain, inputs_of
from fxfeat.vision.operations import is_squash, kind_of, slides
from fxfeat.vision.shapes import is_tensor, shape_of
from fxfeat.vision.value_names import name_value


@dataclass(frozen=True)
class Head:
    """The split of a model, as values of its recording.

    ``features`` are the last values that have positions: one, or one for each classifier. ``scores`` is what the
    classifiers lead to, ``squashes`` what lies between the two and is no part of an embedding: softmax and the like.
    ``pooled`` is what the features were first pooled to, where they are one value. ``why`` says in words what was
    found; ``names`` are those of the features. ``sizes`` holds sizes that were read from values without positions, and
    so are the same for every input.
    """

    features: tuple[fx.Node, ...]
    scores: fx.Node
    classifiers: tuple[Classifier, ...]
    squashes: frozenset[fx.Node]
    names: tuple[str, ...]
    why: str
    sizes: dict[fx.Node, int]
    pooled: fx.Node | None = None


def find_head(recording: Recording, larger: Recording | None) -> Head:
    """Split a model where its last positions are summed up on the way to its scores.

    Args:
        recording: the model's recording.
        larger: the same model on a larger input, if it runs on one.

    Raises:
        RequestError: where the model's results still have positions, so that there is no head.
    """
    positions = find_positions(recording, larger)
    flow = draw_memory_flow(recording)
    failures: dict[fx.Node, str] = {}
    for scores in _results(recording):
        if scores not in flow or not any(source in flow for source in inputs_of(recording)):
            continue
        head = _find_head_of(recording, flow, scores, positions)
        if isinstance(head, Head) and not _lead_on(flow, head.classifiers, failures):
            return head
        failures[scores] = head if isinstance(head, str) else "what would be its classifier leads to another result"
    encoder = _find_encoder(recording, flow, positions, larger)
    if encoder is not None:
        return encoder
    instead = "; ".join(dict.fromkeys(failures.values())) or "its result depends on no input"
    raise RequestError(
        f"{type(recording.root).__name__} has no head: fxfeat looked for a value with positions, pooling after it and "
        f"a linear layer that makes scores, but {instead}. For inner values of such a model, use "
        "fxfeat.features_only or fxfeat.create_feature_extractor."
    )


def _lead_on(flow: nx.DiGraph, classifiers: tuple[Classifier, ...], results: Iterable[fx.Node]) -> bool:
    """Say whether other results are made of what classifiers give, as a decoder makes an image of a code."""
    return any(nx.has_path(flow, classifier.result, result) for classifier in classifiers for result in results)


def _find_head_of(recording: Recording, flow: nx.DiGraph, scores: fx.Node, positions: frozenset[fx.Node]) -> Head | str:
    """Split a model before the classifiers of one result, or say why it cannot be."""
    if scores in positions:
        return f"its result of shape {shape_of(scores)} still has positions, so nothing pools it"
    if len(shape_of(scores)) < 2:
        return f"its result of shape {shape_of(scores)} has no axis of scores, as a loss and a similarity have none"
    ends = find_classifiers(recording, flow, scores, positions)
    classifiers = find_removed(recording, scores, positions) if isinstance(ends, Blocked) else ends
    ways = [(classifier.source, classifier.result) for classifier in classifiers] or [(scores, scores)]
    cuts = dict.fromkeys(find_cut(recording, flow, source, result, positions) for source, result in ways)
    features = tuple(node for node in cuts if node is not None)
    if len(features) < len(cuts):
        return "no one value lies on every path from the input to its classifier"
    if isinstance(ends, Blocked) and sum(size > 1 for size in shape_of(scores)[1:]) > 2:
        return f"its result of shape {shape_of(scores)} has positions of its own, as what a decoder makes has"
    if isinstance(ends, Blocked) and features == (scores,):
        return f"its result comes from {ends.what}, and no one value with positions lies on every path to that"
    between = find_between(flow, classifiers, scores)
    squashes = frozenset(node for node in between if is_squash(recording, node))
    names = tuple(name_value(recording, node, name_nodes(recording)) or node.name for node in features)
    why = _explain(names, features, positions, ends)
    sizes = find_constant_sizes(recording, positions)
    only = ways[0][0] if len(ways) == 1 else None
    pooled = None if only is None else find_pooled(recording, flow, features[0], only, positions)
    return Head(features, scores, classifiers, squashes, names, why, sizes, pooled)


def _find_encoder(
    recording: Recording, flow: nx.DiGraph, positions: frozenset[fx.Node], larger: Recording | None
) -> Head | None:
    """Take a model's result for its features where it pools nothing, and does not grow on the way as a decoder does."""
    spread = [node for node in _results(recording) if node in positions and node in flow and node.op != "placeholder"]
    if not spread:
        return None
    result = _take_coarsest(flow, spread, larger)
    if len(shape_of(result)) < 3 or _rises(recording, flow, positions, result, larger):
        return None
    chain = [node for node in find_chain(flow, inputs_of(recording), [result]) if node in positions and is_tensor(node)]
    # Of a sequence, only a larger one shows which axis holds the channels.
    axes = len(shape_of(result)) if larger is not None or len(shape_of(result)) > 3 else -1
    alike = [node for node in chain if len(shape_of(node)) == axes]
    if any(_count_places(node, larger) * 2 < _count_places(result, larger) for node in alike):
        return None
    name = name_value(recording, result, name_nodes(recording)) or result.name
    why = f"features are {name!r} {shape_of(result)}, the model's result, which it does not pool"
    return Head((result,), result, (), frozenset(), (name,), f"{why}; no classifier was found", {})


def _take_coarsest(flow: nx.DiGraph, results: list[fx.Node], larger: Recording | None) -> fx.Node:
    """Take the first result, or the last of those that are made of it at lower and lower resolutions, as stages are."""
    taken = results[0]
    for result in results[1:]:
        ranks = len(shape_of(taken)), len(shape_of(result))
        lower = min(ranks) > 2 and _count_places(result, larger) * 2 <= _count_places(taken, larger)
        taken = result if lower and _leads_to(flow, taken, result) else taken
    return taken


def _leads_to(flow: nx.DiGraph, node: fx.Node, result: fx.Node) -> bool:
    """Say whether a result is made of another, or of what that alone is made of, as stages with norms beside are."""
    before = [node]
    while len(before) == 1:
        if nx.has_path(flow, before[0], result):
            return True
        before = list(flow.predecessors(before[0]))
    return False


def _rises(
    recording: Recording, flow: nx.DiGraph, positions: frozenset[fx.Node], result: fx.Node, larger: Recording | None
) -> bool:
    """Say whether maps grow on the way to a result and it stays as fine, also where a way round them leads there."""
    before = nx.ancestors(flow, result) | {result}
    placed = [node for node in before if node in positions and is_tensor(node)]
    # Of a signal, only a larger one shows which axis holds the channels.
    axes = 2 if larger is not None and all(len(shape_of(node)) < 4 for node in placed) else 3
    spread = [node for node in placed if len(shape_of(node)) > axes]
    chain = [node for node in find_chain(flow, inputs_of(recording), [result]) if node in spread]
    places = {node: _count_places(node, larger) for node in spread}
    finest = max((2 * places[node] for node in chain[-1:]), default=0.0)
    grown = (node for node in spread if (slides(recording, node) or "shuffle" in kind_of(recording, node)))
    return any(
        any(places[source] * 2 < places[node] < finest for source in node.all_input_nodes if source in places)
        for node in grown
    )


def _count_places(node: fx.Node, larger: Recording | None) -> float:
    return math.prod(shape_of(node)[1:]) / shape_of(node)[find_channels(node, larger)]


def describe_head(setup: Setup) -> str:
    """Say in words where a model's features end and what its classifier is, or why it has no head."""
    recording = record_mode(setup, False)
    try:
        return find_head(recording, record_same_code(setup, recording)).why
    except FxfeatError as error:
        return str(error)


def _results(recording: Recording) -> list[fx.Node]:
    """List what the model returns, what it calls logits first."""
    leaves = [(steps, node) for steps, node in recording.module_calls[0].result_nodes if is_tensor(node)]
    if isinstance(recording.result, fx.Node) and is_tensor(recording.result):
        leaves = [((), recording.result), *leaves]
    named_first = sorted(leaves, key=lambda leaf: not any(step == "logits" for _, step in leaf[0]))
    return list(dict.fromkeys(node for _, node in named_first))


def _explain(
    names: tuple[str, ...],
    features: tuple[fx.Node, ...],
    positions: frozenset[fx.Node],
    ends: tuple[Classifier, ...] | Blocked,
) -> str:
    shown = " and ".join(f"{name!r} {shape_of(node)}" for name, node in zip(names, features, strict=True))
    spread = set(features) <= positions
    place = "the last value with positions before the pooling" if spread else "what goes into the classifier"
    return f"features are {shown}, {place}; {_describe_ends(ends)}"


def _describe_ends(ends: tuple[Classifier, ...] | Blocked) -> str:
    if isinstance(ends, Blocked):
        return f"no classifier was found: the scores come from {ends.what}"
    layers = " and ".join(repr(classifier.path or classifier.result.name) for classifier in ends)
    return f"the classifier is {layers}" if layers else "no classifier was found"
