"""Turn the part of a recording behind some values into a recording of its own, with those values as inputs."""

from __future__ import annotations

import dataclasses
import inspect
import operator
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import fx

from fxfeat.analysis.dependencies import map_dependencies
from fxfeat.errors import TraceError
from fxfeat.ir.draft import Draft
from fxfeat.ir.guard import Guard
from fxfeat.ir.module_call import ModuleCall
from fxfeat.ir.node_meta import (
    NodeMeta,
    Storage,
    TensorMeta,
    amend,
    meta_of,
    same,
)
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import map_nodes, parts_of


@dataclasses.dataclass(frozen=True)
class LostInput:
    """Stands for an input that a downstream recording no longer has; never left in emitted code."""

    name: str


Copies = dict[fx.Node, fx.Node]
KnownSizes = Mapping[fx.Node, int]


@dataclasses.dataclass(frozen=True)
class Downstream:
    """A recording that starts at inner values, and the node in it for each node of the original."""

    recording: Recording
    copies: Copies


def start_from(
    recording: Recording,
    sources: Mapping[str, fx.Node],
    passed: Collection[fx.Node] = (),
    known_sizes: Mapping[fx.Node, int] | None = None,
) -> Downstream:
    """Make inner values the inputs of a recording; what they were computed from is left to the passes to drop.

    A module whose call was under way when one of the values was made is opened, and so is one that holds a passed
    node. A batch size that was read from the
    model's own input is read from the first of the values instead.

    Args:
        recording: the recording, which is not changed.
        sources: the values by the name of the parameter that takes their place.
        passed: nodes that hand their first input on instead of what they compute.
        known_sizes: sizes that were read before and are the same for every input.

    Returns:
        The recording behind the values; positions and module calls are those of the original.
    """
    starts = [meta_of(node).position for node in sources.values()]
    after = set(sources.values())
    for node, dependencies in map_dependencies(recording.nodes).items():
        if not after.isdisjoint(dependencies):
            after.add(node)
    early = {node: size for node, size in (known_sizes or {}).items() if node not in after}
    copies = _copy_nodes(recording, sources, max(starts), after, early)
    for node in passed:
        amend(copies[node], passed=True)
    copied = dataclasses.replace(
        recording,
        graph=next(iter(copies.values())).graph,
        module_calls=tuple(_copy_module_call(call, starts, passed, copies, early) for call in recording.module_calls),
        guards=tuple(_copy_guard(guard, copies) for guard in recording.guards if guard.node in after),
        result=map_nodes(recording.result, copies.__getitem__),
        signature=_sign(sources),
        dtype_reads=(),
        unsupported=tuple(step for step in recording.unsupported if step.position > max(starts)),
        attribute_writes=tuple(write for write in recording.attribute_writes if write.position > max(starts)),
    )
    return Downstream(copied, copies)


def check_start(draft: Draft) -> Draft:
    """Raise where rewritten code still needs an input that it no longer has; a pass.

    Raises:
        TraceError: naming the input.
    """
    lost = (part for node in draft.graph.nodes for part in parts_of((node.args, node.kwargs), LostInput))
    missing = next(lost, None)
    if missing is not None:
        model, inputs = type(draft.recording.root).__name__, ", ".join(draft.recording.signature.parameters)
        raise TraceError(
            f"What follows {inputs!r} in {model} also reads its own input {missing.name!r}, so it cannot be run "
            "without it."
        )
    return draft


def _copy_nodes(
    recording: Recording, sources: Mapping[str, fx.Node], last: int, after: set[fx.Node], known_sizes: KnownSizes
) -> Copies:
    (name, first), *_ = sources.items()
    names = {node: name for name, node in sources.items()}
    overwritten = {memory for node in recording.nodes[last + 1 :] for memory in meta_of(node).writes}
    done: frozenset[Storage] = recording.persistent.union(*(meta_of(node).aliases for node in names))
    graph, copies = fx.Graph(), Copies()
    entry: fx.Node | None = None
    for node in recording.nodes:
        if entry is None and node.op == "placeholder":
            entry = copies[node] = _placeholder(graph, name, node, first)
        elif node is first and entry is not None:
            # What overwrites the value later must not overwrite the caller's.
            function = torch.clone if meta_of(node).aliases & overwritten else same
            copies[node] = _enter(graph, node, function, entry)
        elif node in names:
            copies[node] = _placeholder(graph, names[node], node, node)
        else:
            early = _owner_of_size(node) not in after
            copies[node] = _copy(graph, node, copies, entry if early else None, first, known_sizes)
        if meta_of(node).position < last:
            # What the model did to its own state and to these values before is done, and is not done again.
            amend(copies[node], writes=meta_of(copies[node]).writes - done)
    return copies


def _placeholder(graph: fx.Graph, name: str, slot: fx.Node, value: fx.Node) -> fx.Node:
    copy = graph.create_node("placeholder", name, name=name)
    aliases = meta_of(value).aliases if slot is value else frozenset()
    copy.meta["fxfeat"] = NodeMeta(meta_of(slot).position, 0, meta_of(value).value, aliases=aliases)
    return copy


def _enter(graph: fx.Graph, node: fx.Node, function: Any, entry: fx.Node) -> fx.Node:
    copy = graph.create_node("call_function", function, (entry,))
    meta = meta_of(node)
    copy.meta["fxfeat"] = NodeMeta(
        meta.position, 0, meta.value, aliases=meta.aliases, passed=function is same, counted=meta.counted
    )
    return copy


def _copy(
    graph: fx.Graph, node: fx.Node, copies: Copies, entry: fx.Node | None, first: fx.Node, known_sizes: KnownSizes
) -> fx.Node:
    meta = meta_of(node)
    if node.op == "placeholder":
        copy = graph.create_node("call_function", same, (_lost(node),))
    elif entry is not None and _reads_batch(node, first):
        copy = graph.create_node("call_method", "size", (entry, 0))
    else:
        args, kwargs = _map(node.args, copies, known_sizes), _map(node.kwargs, copies, known_sizes)
        copy = graph.create_node(node.op, node.target, args, kwargs, name=node.name)
    before = copies[meta.same_as] if meta.same_as is not None else None
    copy.meta["fxfeat"] = dataclasses.replace(meta, same_as=before)
    return copy


def _lost(node: fx.Node) -> Any:
    return LostInput(str(node.target))


def _map(value: Any, copies: Copies, known_sizes: KnownSizes) -> Any:
    """Replace nodes by their copies, or by sizes that are known; the model's own inputs have no copies."""

    def replace(node: fx.Node) -> Any:
        return _lost(node) if node.op == "placeholder" else known_sizes.get(node, copies[node])

    return map_nodes(value, replace)


def _reads_batch(node: fx.Node, first: fx.Node) -> bool:
    """Say whether a node reads the size of the batch from a value that has as many rows as the first source."""
    owner = _owner_of_size(node)
    if owner is None or meta_of(owner).constant:
        return False
    shapes = [getattr(meta_of(tensor).value, "shape", ()) for tensor in (owner, first)]
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
    return owner if isinstance(owner, fx.Node) and isinstance(meta_of(owner).value, TensorMeta) else None


def _copy_module_call(
    module_call: ModuleCall, starts: list[int], passed: Collection[fx.Node], copies: Copies, known_sizes: KnownSizes
) -> ModuleCall:
    under_way = not module_call.leaf and any(module_call.start <= start < module_call.stop for start in starts)
    skips = any(module_call.start <= meta_of(node).position < module_call.stop for node in passed)
    return dataclasses.replace(
        module_call,
        path="" if under_way or skips else module_call.path,
        args=_map(module_call.args, copies, known_sizes),
        kwargs=_map(module_call.kwargs, copies, known_sizes),
        result=map_nodes(module_call.result, copies.__getitem__),
        result_nodes=tuple((steps, copies[node]) for steps, node in module_call.result_nodes),
    )


def _copy_guard(guard: Guard, copies: Copies) -> Guard:
    return dataclasses.replace(guard, node=copies[guard.node])


def _sign(sources: Mapping[str, fx.Node]) -> inspect.Signature:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature([inspect.Parameter(name, kind) for name in sources])
