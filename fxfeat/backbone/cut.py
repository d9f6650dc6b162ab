"""Find the value behind which a model pools."""

from __future__ import annotations

import operator

import networkx as nx
from torch import fx

from fxfeat.ir.module_call import ancestors
from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import nodes_in
from fxfeat.vision.data_flow import find_chain, inputs_of
from fxfeat.vision.learnt import is_linear, mixes
from fxfeat.vision.operations import (
    ATTENTION,
    function_of,
    is_adaptive_pool,
    is_dropout,
    is_layout,
    is_norm,
    is_pick,
)
from fxfeat.vision.shapes import is_tensor, position_of, shape_of


def find_cut(
    recording: Recording, flow: nx.DiGraph, source: fx.Node, result: fx.Node, positions: frozenset[fx.Node]
) -> fx.Node | None:
    """Find the last value with positions on every path from the input to a classifier.

    What only hands it on to the pooling, or is a linear layer of the head's own module, comes after it. Without any
    positions it is what goes into the classifier, before dropout.

    Args:
        recording: the model's recording.
        flow: which tensors are computed from which.
        source: what goes into the classifier.
        result: what comes out.
        positions: the values that have positions.

    Returns:
        The value; None where every path has another.
    """
    chain = find_chain(flow, inputs_of(recording), [source])
    before = [node for node in chain if is_tensor(node)]
    spread = [node for node in before if node in positions and node.op != "placeholder"]
    if not spread:
        return _before_dropout(recording, [node for node in before if node not in positions])
    later = chain[chain.index(spread[-1]) + 1 :]
    pool = next((node for node in later if node not in positions), result)
    if function_of(pool) in ATTENTION:
        spread = _before_attention(recording, spread, pool)
    spread = _before_own_layers(recording, spread, pool, result)
    while len(spread) > 1 and _belongs_to_pool(recording, spread, pool):
        spread.pop()
    return spread[-1]


def _before_own_layers(recording: Recording, spread: list[fx.Node], pool: fx.Node, result: fx.Node) -> list[fx.Node]:
    """Leave out what a head's own module does before it pools, if that is a linear layer at each position alone."""
    for module_call in recording.module_calls[1:]:
        if not all(module_call.start <= position_of(node) < module_call.stop for node in (pool, result)):
            continue
        given = [node for node in spread if node in nodes_in((module_call.args, module_call.kwargs))]
        inside = recording.nodes[module_call.start : position_of(pool)]
        if given and not any(mixes(recording, node) for node in inside):
            own = any(is_linear(recording, node, False) for node in inside)
            return spread[: spread.index(given[-1]) + 1] if own else spread
    return spread


def _before_dropout(recording: Recording, pooled: list[fx.Node]) -> fx.Node | None:
    while len(pooled) > 1 and is_dropout(recording, pooled[-1]):
        pooled.pop()
    return pooled[-1] if pooled else None


def _before_attention(recording: Recording, spread: list[fx.Node], pool: fx.Node) -> list[fx.Node]:
    """Leave out keys and values of an attention that pools: they belong to its module, which takes the features."""
    for index in [meta_of(pool).module_call, *ancestors(recording.module_calls, meta_of(pool).module_call)]:
        module_call = recording.module_calls[index]
        given = [node for node in spread if node in nodes_in((module_call.args, module_call.kwargs))]
        if module_call.path and given:
            return spread[: spread.index(given[-1]) + 1]
    return spread


def _is_put_back(recording: Recording, spread: list[fx.Node]) -> bool:
    """Say whether the axes were changed for a norm alone, and are what they were before."""
    if len(spread) < 4:
        return False
    source, there, norm, back = spread[-4:]
    turns = is_layout(recording, there) and is_layout(recording, back) and is_norm(recording, norm)
    return turns and shape_of(source) == shape_of(back)


def _belongs_to_pool(recording: Recording, spread: list[fx.Node], pool: fx.Node) -> bool:
    """Say whether a node only hands its input on to the pooling: other axes, a part, a smaller map, dropout."""
    before, node = spread[-2:]
    kinds = (is_dropout, is_layout, is_adaptive_pool)
    if not (is_pick(node) or any(kind(recording, node) for kind in kinds)):
        return False
    if _is_put_back(recording, spread):
        return False
    if before not in node.all_input_nodes or not is_tensor(before) or _reads_other_sizes(node, before):
        return False
    owner = _owner(recording, node)
    return owner in {_owner(recording, pool), *ancestors(recording.module_calls, meta_of(pool).module_call)}


def _reads_other_sizes(node: fx.Node, before: fx.Node) -> bool:
    """Say whether sizes are read from other values than its own, batches apart: nobody has those where it is alone."""
    waiting = [source for source in node.all_input_nodes if source is not before and not is_tensor(source)]
    while waiting:
        size = waiting.pop()
        inputs = size.all_input_nodes
        tensors = [source for source in inputs if is_tensor(source)]
        if before in tensors or (size.target is operator.getitem and size.args[1] == 0):
            continue
        if tensors:
            return True
        waiting += inputs
    return False


def _owner(recording: Recording, node: fx.Node) -> int:
    """Return the module call whose code made a call: the one around a leaf."""
    module_call = recording.module_calls[meta_of(node).module_call]
    return module_call.parent if module_call.leaf and module_call.parent is not None else module_call.index
