"""Turn the part of a recording behind some values into a recording of its own, with those values as inputs."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Collection, Mapping
from typing import Any

import networkx as nx
from torch import fx

from fxfeat.errors import TraceError
from fxfeat.record.recording import Facts, Guard, Recording, Span, amend, facts
from fxfeat.record.written import map_nodes
from fxfeat.rewrite.dependencies import draw_dependencies
from fxfeat.rewrite.draft import Draft


@dataclasses.dataclass(frozen=True)
class Downstream:
    """A recording that starts at inner values, and the node in it for each node of the original."""

    recording: Recording
    twins: dict[fx.Node, fx.Node]


def start_from(recording: Recording, sources: Mapping[str, fx.Node], passed: Collection[fx.Node] = ()) -> Downstream:
    """Make inner values the inputs of a recording; what they were computed from is left to the passes to drop.

    A module whose call was under way when one of the values was made is opened: its caller is.

    Args:
        recording: the recording, which is not changed.
        sources: the values by the name of the parameter that takes their place.
        passed: nodes that hand their first input on instead of what they compute.

    Returns:
        The recording behind the values; positions and spans are those of the original.
    """
    names = {node: name for name, node in sources.items()}
    graph = fx.Graph()
    twins: dict[fx.Node, fx.Node] = {}
    starts = [facts(node).position for node in sources.values()]
    done = recording.persistent.union(*(facts(node).storages for node in names))
    for node in recording.nodes:
        made = _copy(graph, node, names, twins)
        # What the model did to its own state and to these values before is done, and is not done again.
        writes = facts(made).writes - done if facts(node).position < max(starts) else facts(made).writes
        amend(made, writes=writes, passed=facts(made).passed or node in passed)
        twins[node] = made
    spans = tuple(_copy_span(span, starts, twins) for span in recording.spans)
    drawn = draw_dependencies(recording.nodes)
    after = {node for source in names for node in {source, *nx.descendants(drawn, source)}}
    copied = dataclasses.replace(
        recording,
        graph=graph,
        spans=spans,
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
    missing = [node for node in draft.graph.nodes if node.target is lost_input]
    if missing:
        model = type(draft.recording.root).__name__
        raise TraceError(
            f"What follows {', '.join(draft.recording.signature.parameters)!r} in {model} also reads its own "
            f"input {missing[0].args[0]!r}, so it cannot be run without it."
        )
    return draft


def lost_input(name: str) -> Any:
    """Stand for an input that a downstream recording no longer has; never left in emitted code."""
    raise TraceError(f"{name!r} is no input here.")


def _copy(graph: fx.Graph, node: fx.Node, names: Mapping[fx.Node, str], twins: dict[fx.Node, fx.Node]) -> fx.Node:
    known = facts(node)
    if node in names:
        made = graph.create_node("placeholder", names[node], name=names[node])
        made.meta["facts"] = Facts(known.position, 0, known.value, storages=known.storages)
        return made
    if node.op == "placeholder":
        made = graph.create_node("call_function", lost_input, (str(node.target),))
    else:
        args, kwargs = map_nodes(node.args, twins.__getitem__), map_nodes(node.kwargs, twins.__getitem__)
        made = graph.create_node(node.op, node.target, args, kwargs, name=node.name)
    before = twins[known.same_as] if known.same_as is not None else None
    made.meta["facts"] = dataclasses.replace(known, same_as=before)
    return made


def _copy_span(span: Span, starts: list[int], twins: dict[fx.Node, fx.Node]) -> Span:
    under_way = any(span.start <= start < span.stop for start in starts)
    return dataclasses.replace(
        span,
        path="" if under_way and not span.leaf else span.path,
        args=map_nodes(span.args, twins.__getitem__),
        kwargs=map_nodes(span.kwargs, twins.__getitem__),
        result=map_nodes(span.result, twins.__getitem__),
        leaves=tuple((steps, twins[node]) for steps, node in span.leaves),
    )


def _copy_guard(guard: Guard, twins: dict[fx.Node, fx.Node]) -> Guard:
    return dataclasses.replace(guard, node=twins[guard.node])


def _sign(sources: Mapping[str, fx.Node]) -> inspect.Signature:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature([inspect.Parameter(name, kind) for name in sources])
