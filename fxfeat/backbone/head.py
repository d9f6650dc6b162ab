"""Find where a model's features end and its head begins."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from fxfeat.backbone.chain import draw_data, find_chain, inputs_of
from fxfeat.backbone.classifier import Blocked, Classifier, find_between, find_classifiers
from fxfeat.backbone.operations import (
    is_adaptive_pool,
    is_drop,
    is_layout,
    is_linear,
    is_norm,
    is_pick,
    is_squash,
    name_of,
)
from fxfeat.backbone.positions import ATTENTION, find_positions
from fxfeat.errors import RequestError
from fxfeat.name.table import name_nodes
from fxfeat.pyramid.mixing import mixes
from fxfeat.pyramid.naming import name_value
from fxfeat.record.recording import Recording, TensorFacts, ancestors, facts
from fxfeat.record.written import nodes_in


@dataclass(frozen=True)
class Head:
    """The split of a model, as values of its recording.

    ``features`` is the last value that has positions, ``scores`` what the classifiers lead to, ``squashes`` what lies
    between classifiers and scores and is no part of an embedding: softmax and the like. ``why`` says in words what
    was found; ``name`` is the name of ``features``.
    """

    features: fx.Node
    scores: fx.Node
    classifiers: tuple[Classifier, ...]
    squashes: frozenset[fx.Node]
    name: str
    why: str


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
            shape = facts(scores).value.shape
            tried.append(f"its result of shape {tuple(shape)} still has positions, so nothing pools it")
            continue
        classifiers = () if isinstance(found, Blocked) else found
        ends = {held.source for held in classifiers} or {scores}
        cut = _find_cut(recording, drawn, scores, ends, positions)
        if cut is None:
            tried.append("no one value lies on every path from the input to its result")
            continue
        between = find_between(drawn, classifiers, scores)
        squashes = frozenset(node for node in between if is_squash(recording, node))
        name = _name(recording, cut)
        return Head(cut, scores, classifiers, squashes, name, _explain(name, cut, classifiers, positions, found))
    found_instead = "; ".join(dict.fromkeys(tried)) or "its result depends on no input"
    raise RequestError(
        f"{type(recording.root).__name__} has no head: fxfeat looked for a value with positions, pooling after it and "
        f"a linear layer that makes scores, but {found_instead}. For inner values of such a model, use "
        "fxfeat.features_only or fxfeat.create_feature_extractor."
    )


def _results(recording: Recording) -> list[fx.Node]:
    """List what the model returns, what it calls logits first."""
    leaves = [(steps, node) for steps, node in recording.spans[0].leaves if isinstance(facts(node).value, TensorFacts)]
    if isinstance(recording.result, fx.Node):
        leaves = [((), recording.result), *leaves]
    leaves = [pair for pair in leaves if isinstance(facts(pair[1]).value, TensorFacts)]
    named_first = sorted(leaves, key=lambda pair: not any(step == "logits" for _, step in pair[0]))
    return list(dict.fromkeys(node for _, node in named_first))


def _find_cut(
    recording: Recording, drawn: object, scores: fx.Node, ends: set[fx.Node], positions: frozenset[fx.Node]
) -> fx.Node | None:
    chain = find_chain(drawn, inputs_of(recording), scores)
    last = min(facts(node).position for node in ends)
    before = [node for node in chain if facts(node).position <= last and isinstance(facts(node).value, TensorFacts)]
    spread = [node for node in before if node in positions and node.op != "placeholder"]
    if not spread:
        return _before_dropout(recording, [node for node in before if node not in positions])
    later = chain[chain.index(spread[-1]) + 1 :]
    pool = next((node for node in later if node not in positions), scores)
    if name_of(pool) in ATTENTION:
        spread = _before_attention(recording, spread, pool)
    spread = _before_own_layers(recording, spread, [pool, *ends])
    while len(spread) > 1 and _belongs_to_pool(recording, spread, pool):
        spread.pop()
    return spread[-1]


def _before_own_layers(recording: Recording, spread: list[fx.Node], held: list[fx.Node]) -> list[fx.Node]:
    """Leave out what a head's own module does before it pools, if that is a linear layer at each position alone."""
    for span in recording.spans[1:]:
        if not all(span.start <= facts(node).position < span.stop for node in held):
            continue
        given = [node for node in spread if node in nodes_in((span.args, span.kwargs))]
        inside = recording.nodes[span.start : facts(held[0]).position]
        if given and not any(mixes(recording, node) for node in inside):
            own = any(is_linear(recording, node, False) for node in inside)
            return spread[: spread.index(given[-1]) + 1] if own else spread
    return spread


def _before_dropout(recording: Recording, pooled: list[fx.Node]) -> fx.Node | None:
    while len(pooled) > 1 and is_drop(recording, pooled[-1]):
        pooled.pop()
    return pooled[-1] if pooled else None


def _before_attention(recording: Recording, spread: list[fx.Node], pool: fx.Node) -> list[fx.Node]:
    """Leave out keys and values of an attention that pools: they belong to its module, which takes the features."""
    for index in [facts(pool).span, *ancestors(recording.spans, facts(pool).span)]:
        span = recording.spans[index]
        given = [node for node in spread if node in nodes_in((span.args, span.kwargs))]
        if span.path and given:
            return spread[: spread.index(given[-1]) + 1]
    return spread


def _is_put_back(recording: Recording, spread: list[fx.Node]) -> bool:
    """Say whether the axes were changed for a norm alone, and are what they were before."""
    if len(spread) < 4:
        return False
    source, there, norm, back = spread[-4:]
    turns = is_layout(recording, there) and is_layout(recording, back) and is_norm(recording, norm)
    return turns and facts(source).value.shape == facts(back).value.shape


def _belongs_to_pool(recording: Recording, spread: list[fx.Node], pool: fx.Node) -> bool:
    """Say whether a node only hands its input on to the pooling: other axes, a part, a smaller map, dropout."""
    before, node = spread[-2:]
    kinds = (is_drop, is_layout, is_adaptive_pool)
    if not (is_pick(node) or any(kind(recording, node) for kind in kinds)):
        return False
    if _is_put_back(recording, spread):
        return False
    sources = [held for held in node.all_input_nodes if isinstance(facts(held).value, TensorFacts)]
    if before not in sources:
        return False
    owner = _owner(recording, node)
    return owner in {_owner(recording, pool), *ancestors(recording.spans, facts(pool).span)}


def _owner(recording: Recording, node: fx.Node) -> int:
    """Return the span whose code made a call: the one around a leaf."""
    span = recording.spans[facts(node).span]
    return span.parent if span.leaf and span.parent is not None else span.index


def _name(recording: Recording, node: fx.Node) -> str:
    return name_value(recording, node, name_nodes(recording)) or node.name


def _explain(
    name: str,
    cut: fx.Node,
    classifiers: tuple[Classifier, ...],
    positions: frozenset[fx.Node],
    found: tuple[Classifier, ...] | Blocked,
) -> str:
    shape = tuple(facts(cut).value.shape)
    place = "the last value with positions before the pooling" if cut in positions else "what goes into the classifier"
    layers = " and ".join(repr(held.path or held.result.name) for held in classifiers)
    end = f"the classifier is {layers}" if layers else "no classifier was found"
    if isinstance(found, Blocked):
        end += f": the scores come from {found.what}"
    return f"features are {name!r} {shape}, {place}; {end}"
