"""Write the code of a whole model that is tapped: one call of it, and the values that are copied out."""

from __future__ import annotations

import dataclasses
import inspect
import operator
from collections.abc import Callable
from typing import Any

from torch import fx

from fxfeat.codegen.emit import emit
from fxfeat.ir.draft import Draft
from fxfeat.ir.emission import Emission
from fxfeat.ir.example import Example
from fxfeat.ir.feature import Feature, Given
from fxfeat.ir.node_meta import NodeMeta, meta_of
from fxfeat.ir.tap import TappedCall
from fxfeat.opening.seal import measured
from fxfeat.runtime.clone import clone_all
from fxfeat.runtime.run_tapped import run_tapped


def emit_tapped(draft: Draft, call: TappedCall, example: Example, values: dict[str, Any]) -> Emission:
    """Write code that calls a whole model, and returns what is copied out of it.

    Args:
        draft: the features, and the recording of the inputs.
        call: the call, and what is copied.
        example: how the model is called.
        values: what is known of each value, by the feature's name.
    """
    graph, recording = draft.graph, draft.recording
    inputs: dict[str, fx.Node] = {}
    for node in recording.graph.nodes:
        if node.op == "placeholder":
            # By the parameter's name: the node of one that is called input, as one of Python's functions, has another.
            inputs[str(node.target).lstrip("*")] = graph.node_copy(node)
    given = [_clone_input(graph, inputs, feature) for feature in draft.features]
    if call.taps:
        args, kwargs = _arguments(recording.signature, inputs, example)
        owner = _add(graph, "get_attr", "", (), {}, NodeMeta(0, 0, container=True))
        node = _add(graph, "call_function", run_tapped, (owner, "", *args), kwargs, NodeMeta(0, 0, (None, values)))
        copies = _add(graph, "call_function", operator.getitem, (node, 1), {}, NodeMeta(0, 0, values))
        picked = {
            name: _add(graph, "call_function", operator.getitem, (copies, name), {}, NodeMeta(0, 0, value))
            for name, value in values.items()
        }
        given = [feature if feature.tap is None else _move(feature, picked[feature.name]) for feature in given]
    calls = (call,) if call.taps else ()
    return emit(dataclasses.replace(draft, features=tuple(given), tapped_calls=calls))


def _move(feature: Feature, node: fx.Node) -> Feature:
    return dataclasses.replace(feature, value=node, steps=())


def _clone_input(graph: fx.Graph, inputs: dict[str, fx.Node], feature: Feature) -> Feature:
    """Copy an input that is a feature before the model can write to it."""
    if feature.tap is not None or feature.origin is None or not isinstance(feature.origin.sign, Given):
        return feature
    node, value = inputs[feature.origin.sign.parameter], meta_of(inputs[feature.origin.sign.parameter]).value
    for kind, step in feature.origin.sign.steps:
        value = value[step] if isinstance(value, (tuple, list, dict)) else None
        node = _add(
            graph,
            "call_function",
            operator.getitem if kind == "item" else getattr,
            (node, step),
            {},
            NodeMeta(0, 0, value),
        )
    function: Callable[..., Any] = clone_all
    return _move(feature, _add(graph, "call_function", function, (node,), {}, NodeMeta(0, 0, measured(feature))))


def _add(graph: fx.Graph, op: str, target: Any, args: Any, kwargs: Any, meta: NodeMeta) -> fx.Node:
    node = graph.create_node(op, target, args, kwargs)
    node.meta["fxfeat"] = meta
    return node


def _arguments(
    signature: inspect.Signature, inputs: dict[str, fx.Node], example: Example
) -> tuple[list[Any], dict[str, Any]]:
    """Pass every parameter on, the way the example was passed: decorators tell named arguments from others.

    What gathers further arguments keeps its stars in the placeholder's target, by which it is written.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    parameters = list(signature.parameters.values())
    gathers = any(one.kind is one.VAR_POSITIONAL for one in parameters)
    for parameter in parameters:
        node = inputs[parameter.name]
        by_name = parameter.default is not parameter.empty or parameter.name in example.kwargs
        if parameter.kind is parameter.VAR_POSITIONAL:
            args.append(node)
        elif (
            parameter.kind is parameter.VAR_KEYWORD
            or parameter.kind is parameter.KEYWORD_ONLY
            or (parameter.kind is parameter.POSITIONAL_OR_KEYWORD and by_name and not gathers)
        ):
            kwargs[parameter.name] = node
        else:
            args.append(node)
    return args, kwargs
