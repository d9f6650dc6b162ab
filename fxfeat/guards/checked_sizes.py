"""Sizes of inputs that the checks of emitted code fix already: no other size need be tried, or be checked again."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

from torch import fx, nn

from fxfeat.ir.emission import Emission
from fxfeat.ir.guard import OF_CALL, Guard
from fxfeat.ir.node_meta import TensorMeta, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import Steps
from fxfeat.runtime.check import check

Place = tuple[str, Steps, int]
"""The argument of ``forward``, the steps to a tensor in it, and the dimension."""


def list_checked_sizes(emission: Emission) -> frozenset[Place]:
    """List the sizes of inputs that must be what they were in the example for the code's own checks to pass.

    Args:
        emission: the code, with its graph.
    """
    if emission.graph is None:
        return frozenset()
    checks = [node for node in emission.graph.nodes if node.target is check]
    return frozenset(place for node in checks for place in _fixed_by(node.args[0], node.args[1]))


def list_failing_sizes(recording: Recording) -> frozenset[Place]:
    """List the sizes of inputs at others of which the model's own code raises, whatever is asked for.

    Its assertions say so, and layers that take an input as it comes, as long as nothing was decided on it before.
    """
    decisions = [(guard.position, _decided_on(guard)) for guard in recording.guards if _is_decision(guard)]
    # What is one of several has an assertion for each.
    asserted = (guard for guard in recording.guards if guard.asserts and " in " not in guard.source)
    fixed = [(guard.position, place) for guard in asserted for place in _fixed_by(guard.node, guard.expected)]
    widths = ((meta_of(node).position, _width_taken(recording, node)) for node in _layers(recording))
    fixed += [(position, place) for position, place in widths if place is not None]

    def is_sure(place: Place, position: int) -> bool:
        before = (places for earlier, places in decisions if earlier <= position)
        return not any(places is None or place in places for places in before)

    return frozenset(place for position, place in fixed if is_sure(place, position))


def list_taken_as_given(recording: Recording) -> frozenset[tuple[str, Steps]]:
    """List the inputs that layers take as they come, before anything but a size was decided on, or a dtype was read.

    They have the dtype of the layers' weights, or the model does not run.
    """
    decided = [guard for guard in recording.guards if _is_decision(guard) and _decided_on(guard) is None]
    end = min((step.position for step in (*decided, *recording.dtype_reads)), default=len(recording.nodes))
    layers = [node for node in _layers(recording) if _is_placeholder(node.args[0])]
    taken = (_width_taken(recording, node) for node in layers if meta_of(node).position < end)
    return frozenset(place[:2] for place in taken if place is not None)


def _layers(recording: Recording) -> list[fx.Node]:
    """List the layers that are given an input; those behind them may have been cut off the model by now."""
    others = {replacement.path for replacement in recording.replacements}
    layers = (node for node in recording.nodes if node.op == "call_module" and node.target not in others)
    return [node for node in layers if node.args and _dimension(node.args[0], 0) is not None]


def _is_decision(guard: Guard) -> bool:
    """Say whether code may have gone another way: an assertion has none, nor has what kinds the inputs are."""
    return not guard.asserts and guard.where != OF_CALL


def _decided_on(guard: Guard) -> frozenset[Place] | None:
    """List the sizes of inputs that a decision goes by; None where it goes by more."""
    places: set[Place] = set()
    waiting = [guard.node]
    while waiting:
        node = waiting.pop()
        place = _place_of(node)
        if place is not None:
            places.add(place)
        elif _is_placeholder(node) or not node.all_input_nodes:
            return None
        else:
            waiting += node.all_input_nodes
    return frozenset(places)


def _width_taken(recording: Recording, node: fx.Node) -> Place | None:
    """Return the size that must be as large as a layer is wide."""
    kind = type(recording.root.get_submodule(str(node.target)))
    given = node.args[0]
    if kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        return _dimension(given, -1 - _EXTENTS[kind])
    return _dimension(given, -1) if kind is nn.Linear else None


_EXTENTS = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
_CASTS = ("to", "type", "float", "double", "half", "bfloat16", "cpu", "cuda", "contiguous", "detach", "clone")
"""Methods that give a tensor of the sizes of the one they are asked of."""


def _fixed_by(node: Any, expected: Any) -> Iterator[Place]:
    if not isinstance(node, fx.Node):
        return
    if node.target in (operator.eq, operator.ne) and expected is (node.target is operator.eq):
        sizes = [place for place in map(_place_of, node.args) if place is not None]
        if len(sizes) == 1 and any(type(part) is int for part in node.args):
            yield sizes[0]
    elif type(expected) is int and (place := _place_of(node)) is not None:
        yield place


def _place_of(node: Any) -> Place | None:
    """Return the size of an input that a node gives, if it gives one."""
    if not isinstance(node, fx.Node):
        return None
    if node.target == "size" and len(node.args) == 2:
        return _dimension(node.args[0], node.args[1])
    if node.target is not operator.getitem or not isinstance(node.args[0], fx.Node):
        return None
    shape = node.args[0]
    if (shape.target == "size" and len(shape.args) == 1) or (shape.target is getattr and shape.args[1] == "shape"):
        return _dimension(shape.args[0], node.args[1])
    return None


def _is_placeholder(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.op == "placeholder"


def _dimension(tensor: Any, dimension: Any) -> Place | None:
    steps: Steps = ()
    while isinstance(tensor, fx.Node) and tensor.op == "call_method" and tensor.target in _CASTS:
        tensor = tensor.args[0]
    while isinstance(tensor, fx.Node) and tensor.target is operator.getitem:
        steps, tensor = (("item", tensor.args[1]), *steps), tensor.args[0]
    if not isinstance(tensor, fx.Node) or tensor.op != "placeholder" or type(dimension) is not int:
        return None
    value = _at(meta_of(tensor).value, steps)
    if not isinstance(value, TensorMeta) or not value.shape:
        return None
    return str(tensor.target), steps, dimension % len(value.shape)


def _at(value: Any, steps: Steps) -> Any:
    for _, key in steps:
        if not isinstance(value, (tuple, list, dict)):
            return None  # a row of a tensor, say
        value = value[key]
    return value
