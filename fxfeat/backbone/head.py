"""Find where a model's features end and its head begins."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from fxfeat.backbone.chain import draw_data, inputs_of
from fxfeat.backbone.classifier import Blocked, Classifier, find_between, find_classifiers
from fxfeat.backbone.cut import find_cut
from fxfeat.backbone.operations import is_squash
from fxfeat.backbone.position_embeddings import find_known_sizes, find_positions, record_larger
from fxfeat.errors import FxfeatError, RequestError
from fxfeat.ir.node_meta import TensorMeta, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.names.table import name_nodes
from fxfeat.pyramid.naming import name_value
from fxfeat.trace.setup import Setup, record_mode


@dataclass(frozen=True)
class Head:
    """The split of a model, as values of its recording.

    ``features`` are the last values that have positions: one, or one for each classifier. ``scores`` is what the
    classifiers lead to, ``squashes`` what lies between the two and is no part of an embedding: softmax and the like.
    ``why`` says in words what was found; ``names`` are those of the features. ``known`` holds sizes that were read
    from values without positions, and so are the same for every input.
    """

    features: tuple[fx.Node, ...]
    scores: fx.Node
    classifiers: tuple[Classifier, ...]
    squashes: frozenset[fx.Node]
    names: tuple[str, ...]
    why: str
    known: dict[fx.Node, int]


def find_head(recording: Recording, larger: Recording | None) -> Head:
    """Split a model where its last positions are summed up on the way to its scores.

    Args:
        recording: the model's recording.
        larger: the same model on a larger input, if it runs on one.

    Raises:
        RequestError: where the model's results still have positions, so that there is no head.
    """
    positions = find_positions(recording, larger)
    drawn = draw_data(recording)
    tried: list[str] = []
    for scores in _results(recording):
        if scores not in drawn or not any(source in drawn for source in inputs_of(recording)):
            continue
        found = find_classifiers(recording, drawn, scores, positions)
        if scores in positions:
            shape = meta_of(scores).value.shape
            tried.append(f"its result of shape {tuple(shape)} still has positions, so nothing pools it")
            continue
        classifiers = () if isinstance(found, Blocked) else found
        cuts = [find_cut(recording, drawn, held.source, held.result, positions) for held in classifiers]
        found_cuts = tuple(dict.fromkeys(cuts or [find_cut(recording, drawn, scores, scores, positions)]))
        features = tuple(node for node in found_cuts if node is not None)
        if len(features) < len(found_cuts):
            tried.append("no one value lies on every path from the input to its classifier")
            continue
        between = find_between(drawn, classifiers, scores)
        squashes = frozenset(node for node in between if is_squash(recording, node))
        names = tuple(_name(recording, node) for node in features)
        why = _explain(names, features, classifiers, positions, found)
        return Head(features, scores, classifiers, squashes, names, why, find_known_sizes(recording, positions))
    found_instead = "; ".join(dict.fromkeys(tried)) or "its result depends on no input"
    raise RequestError(
        f"{type(recording.root).__name__} has no head: fxfeat looked for a value with positions, pooling after it and "
        f"a linear layer that makes scores, but {found_instead}. For inner values of such a model, use "
        "fxfeat.features_only or fxfeat.create_feature_extractor."
    )


def describe_head(setup: Setup) -> str:
    """Say in words where a model's features end and what its classifier is, or why it has no head."""
    recording = record_mode(setup, False)
    try:
        return find_head(recording, record_larger(setup, recording, False)).why
    except FxfeatError as error:
        return str(error)


def _results(recording: Recording) -> list[fx.Node]:
    """List what the model returns, what it calls logits first."""
    returned = recording.module_calls[0].result_nodes
    leaves = [(steps, node) for steps, node in returned if isinstance(meta_of(node).value, TensorMeta)]
    if isinstance(recording.result, fx.Node):
        leaves = [((), recording.result), *leaves]
    leaves = [pair for pair in leaves if isinstance(meta_of(pair[1]).value, TensorMeta)]
    named_first = sorted(leaves, key=lambda pair: not any(step == "logits" for _, step in pair[0]))
    return list(dict.fromkeys(node for _, node in named_first))


def _name(recording: Recording, node: fx.Node) -> str:
    return name_value(recording, node, name_nodes(recording)) or node.name


def _explain(
    names: tuple[str, ...],
    features: tuple[fx.Node, ...],
    classifiers: tuple[Classifier, ...],
    positions: frozenset[fx.Node],
    found: tuple[Classifier, ...] | Blocked,
) -> str:
    shown = " and ".join(
        f"{name!r} {tuple(meta_of(node).value.shape)}" for name, node in zip(names, features, strict=True)
    )
    spread = set(features) <= positions
    place = "the last value with positions before the pooling" if spread else "what goes into the classifier"
    layers = " and ".join(repr(held.path or held.result.name) for held in classifiers)
    end = f"the classifier is {layers}" if layers else "no classifier was found"
    if isinstance(found, Blocked):
        end += f": the scores come from {found.what}"
    return f"features are {shown}, {place}; {end}"
