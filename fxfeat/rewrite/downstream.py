"""Turn the part of a recording behind some values into a recording of its own, with those values as inputs."""

from __future__ import annotations

import dataclasses
import inspect
import operator
from collections.abc import Collection, Mapping
from typing import Any

import networkx as nx
import torch
from torch import fx

from fxfeat.errors import TraceError
from fxfeat.record.recording import Facts, Guard, Recording, Span, Storage, TensorFacts, amend, facts, same
from fxfeat.record.written import flat, map_nodes
from fxfeat.rewrite.dependencies import draw_dependencies
from fxfeat.rewrite.draft import Draft


@dataclasses.dataclass(frozen=True)
class LostInput:
    """Stands for an input that a downstream recording no longer has; never left in emitted code."""

    name: str


Twins = dict[fx.Node, fx.Node]
Known = Mapping[fx.Node, int]


@dataclasses.dataclass(frozen=True)
class Downstream:
    """A recording that starts at inner values, and the node in it for each node of the original."""

    recording: Recording
    twins: Twins


def start_from(
    recording: Recording,
    sources: Mapping[str, fx.Node],
    passed: Collection[fx.Node] = (),
    known: Mapping[fx.Node, int] | None = None,
) -> Downstream:
    """Make inner values the inputs of a recording; what they were computed from is left to the passes to drop.

    A module whose call was under way when one of the values was made is opened, and so is one that holds a passed
    node. A batch size that was read from the
    model's own input is read from the first of the values instead.

    Args:
        recording: the recording, which is not changed.
        sources: the values by the name of the parameter that takes their place.
        passed: nodes that hand their first input on instead of what they compute.
        known: sizes that were read before and are the same for every input.

    Returns:
        The recording behind the values; positions and spans are those of the original.
    """
    starts = [facts(node).position for node in sources.values()]
    drawn = draw_dependencies(recording.nodes)
    after = {node for source in sources.values() for node in {source, *nx.descendants(drawn, source)}}
    early = {node: size for node, size in (known or {}).items() if node not in after}
    twins = _copy_nodes(recording, sources, max(starts), after, early)
    for node in passed:
        amend(twins[node], passed=True)
    copied = dataclasses.replace(
        recording,
        graph=next(iter(twins.values())).graph,
        spans=tuple(_copy_span(span, starts, passed, twins, early) for span in recording.spans),
        guards=tuple(_copy_guard(guard, twins) for guard in recording.guards if guard.node in after),
        result=map_nodes(recording.result, twins.__getitem__),
        signature=_sign(sources),
        dtype_reads=(),
        refusals=tuple(held for held in recording.refusals if held.position > max(starts)),
        settings=tuple(held for held in recording.settings if held.position > max(starts)),
    )
    return Downstream(copied, twins)


def check_start(draft: Draft) -> Draft:
    """Raise where rewritten code still needs an input that it no longer has; a pass.

    Raises:
        TraceError: naming the input.
    """
    values = (value for node in draft.graph.nodes for value in flat((node.args, node.kwargs)))
    missing = next((value for value in values if isinstance(value, LostInput)), None)
    if missing is not None:
        model, held = type(draft.recording.root).__name__, ", ".join(draft.recording.signature.parameters)
        raise TraceError(
            f"What follows {held!r} in {model} also reads its own input {missing.name!r}, so it cannot be run "
            "without it."
        )
    return draft


def _copy_nodes(
    recording: Recording, sources: Mapping[str, fx.Node], last: int, after: set[fx.Node], known: Known
) -> Twins:
    (name, first), *_ = sources.items()
    names = {node: name for name, node in sources.items()}
    overwritten = {memory for node in recording.nodes[last + 1 :] for memory in facts(node).writes}
    done: frozenset[Storage] = recording.persistent.union(*(facts(node).storages for node in names))
    graph, twins = fx.Graph(), Twins()
    entry: fx.Node | None = None
    for node in recording.nodes:
        if entry is None and node.op == "placeholder":
            entry = twins[node] = _placeholder(graph, name, node, first)
        elif node is first and entry is not None:
            # What overwrites the value later must not overwrite the caller's.
            function = torch.clone if facts(node).storages & overwritten else same
            twins[node] = _enter(graph, node, function, entry)
        elif node in names:
            twins[node] = _placeholder(graph, names[node], node, node)
        else:
            early = _owner_of_size(node) not in after
            twins[node] = _copy(graph, node, twins, entry if early else None, first, known)
        if facts(node).position < last:
            # What the model did to its own state and to these values before is done, and is not done again.
            amend(twins[node], writes=facts(twins[node]).writes - done)
    return twins


def _placeholder(graph: fx.Graph, name: str, slot: fx.Node, value: fx.Node) -> fx.Node:
    made = graph.create_node("placeholder", name, name=name)
    storages = facts(value).storages if slot is value else frozenset()
    made.meta["facts"] = Facts(facts(slot).position, 0, facts(value).value, storages=storages)
    return made


def _enter(graph: fx.Graph, node: fx.Node, function: Any, entry: fx.Node) -> fx.Node:
    made = graph.create_node("call_function", function, (entry,))
    known = facts(node)
    made.meta["facts"] = Facts(
        known.position, 0, known.value, storages=known.storages, passed=function is same, counted=known.counted
    )
    return made


def _copy(
    graph: fx.Graph, node: fx.Node, twins: Twins, entry: fx.Node | None, first: fx.Node, known_sizes: Known
) -> fx.Node:
    known = facts(node)
    if node.op == "placeholder":
        made = graph.create_node("call_function", same, (_lost(node),))
    elif entry is not None and _reads_batch(node, first):
        made = graph.create_node("call_method", "size", (entry, 0))
    else:
        args, kwargs = _map(node.args, twins, known_sizes), _map(node.kwargs, twins, known_sizes)
        made = graph.create_node(node.op, node.target, args, kwargs, name=node.name)
    before = twins[known.same_as] if known.same_as is not None else None
    made.meta["facts"] = dataclasses.replace(known, same_as=before)
    return made


def _lost(node: fx.Node) -> Any:
    return LostInput(str(node.target))


def _map(value: Any, twins: Twins, known: Known) -> Any:
    """Replace nodes by their twins, or by sizes that are known; the model's own inputs have no twins."""

    def replace(node: fx.Node) -> Any:
        return _lost(node) if node.op == "placeholder" else known.get(node, twins[node])

    return map_nodes(value, replace)


def _reads_batch(node: fx.Node, first: fx.Node) -> bool:
    """Say whether a node reads the size of the batch from a value that has as many rows as the first source."""
    owner = _owner_of_size(node)
    if owner is None or facts(owner).constant:
        return False
    shapes = [getattr(facts(held).value, "shape", ()) for held in (owner, first)]
    # A batch of one could be any axis of one.
    certain = owner.op == "placeholder" or shapes[0][:1] != (1,)
    return certain and bool(shapes[0]) and shapes[0][:1] == shapes[1][:1]


def _owner_of_size(node: fx.Node) -> fx.Node | None:
    """Return the tensor whose first size a node reads."""
    owner: Any = None
    if (node.target == "size" and node.args[1:] == (0,)) or node.target is len:
        owner = node.args[0]
    elif node.target is operator.getitem and node.args[1] == 0 and isinstance(node.args[0], fx.Node):
        shape = node.args[0]
        if (shape.target is getattr and shape.args[1] == "shape") or (shape.target == "size" and not shape.args[1:]):
            owner = shape.args[0]
    return owner if isinstance(owner, fx.Node) and isinstance(facts(owner).value, TensorFacts) else None


def _copy_span(span: Span, starts: list[int], passed: Collection[fx.Node], twins: Twins, known: Known) -> Span:
    under_way = not span.leaf and any(span.start <= start < span.stop for start in starts)
    skips = any(span.start <= facts(node).position < span.stop for node in passed)
    return dataclasses.replace(
        span,
        path="" if under_way or skips else span.path,
        args=_map(span.args, twins, known),
        kwargs=_map(span.kwargs, twins, known),
        result=map_nodes(span.result, twins.__getitem__),
        leaves=tuple((steps, twins[node]) for steps, node in span.leaves),
    )


def _copy_guard(guard: Guard, twins: Twins) -> Guard:
    return dataclasses.replace(guard, node=twins[guard.node])


def _sign(sources: Mapping[str, fx.Node]) -> inspect.Signature:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature([inspect.Parameter(name, kind) for name in sources])
