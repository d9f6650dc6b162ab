"""Answer code that asks whether gradients are on, and for which tensors, as eager code would be answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from fxfeat.ir.guard import OF_CALL
from fxfeat.ir.node_meta import TensorMeta, meta_of
from fxfeat.trace.builder.decisions import guard_answer
from fxfeat.trace.builder.nodes import add_node, guard, walk_back
from fxfeat.trace.builder.trace import Trace
from fxfeat.trace.unobserved import unobserved_call

_TOLD_OFF = ("off", "frozen")
_TOLD_UNTRAINED = ("none", "frozen")
_STOPS = ("detach", "detach_", "zeros", "ones", "full", "empty", "tensor", "randn", "rand")
_STOPPING_REGIONS = (torch.no_grad, torch.inference_mode)
_PLAIN = (int, float, complex, str, torch.Size, torch.dtype, torch.device)


@unobserved_call
def decide_enabled(trace: Trace) -> bool:
    """Say whether gradients are on where the model's code is."""
    return _decide(trace, torch.is_grad_enabled, (), _is_enabled(trace) and torch.is_grad_enabled())


@unobserved_call
def decide_gradients(trace: Trace, node: fx.Node) -> bool:
    """Say whether a value that was computed, or an input, has a gradient."""
    is_input = node.op == "placeholder"
    answer = (
        _is_asked(trace, node) if is_input else _is_told(node) or (_is_enabled(trace) and _has_gradient(trace, node))
    )
    return _decide(trace, getattr, (node, "requires_grad"), answer)


@unobserved_call
def decide_training(trace: Trace, node: fx.Node, is_trained: bool) -> bool:
    """Say whether a parameter is trained."""
    told = trace.decisions.assumptions.gradients
    answer = told == "all" or (is_trained and told not in _TOLD_UNTRAINED)
    return _decide(trace, getattr, (node, "requires_grad"), answer)


def check_gradients_are_off(trace: Trace) -> None:
    """Check that a model is run without gradients, which is how it could be recorded."""
    node = add_node(trace, "call_function", torch.is_grad_enabled, value=False, counted=False)
    guard(trace, node, False, OF_CALL, "torch.is_grad_enabled()")


def _decide(trace: Trace, function: Callable[..., bool], args: tuple[Any, ...], answer: bool) -> bool:
    """Check an answer, unless another run may get another one and does the same."""
    trace.decisions.asks_gradients = True
    if trace.decisions.assumptions.gradients == "checked":
        guard_answer(trace, function, args, answer)
    return answer


def _is_enabled(trace: Trace) -> bool:
    told = trace.decisions.assumptions.gradients
    return trace.settings.gradients if told == "checked" else told not in _TOLD_OFF


def _has_gradient(trace: Trace, node: fx.Node) -> bool:
    """Say whether anything that a value was computed from has a gradient, and nothing in between takes it away."""
    if _stops(node):
        return False
    behind = walk_back(node, lambda source: not _stops(source))
    return any(_is_told(n) or _is_trained(trace, n) or (n.op == "placeholder" and _is_asked(trace, n)) for n in behind)


def _is_told(node: fx.Node) -> bool:
    """Say whether code has had a value keep gradients, which it does even where gradients are off."""
    return node.target == "requires_grad_" and node.args[1] is True


def _stops(node: fx.Node) -> bool:
    """Say whether no gradient goes through a node."""
    meta = meta_of(node)
    if node.op in ("placeholder", "get_attr") or _is_told(node):
        return False
    if node.target == "requires_grad_":
        return True
    if any(context.factory in _STOPPING_REGIONS for context in meta.contexts) or isinstance(meta.value, _PLAIN):
        return True
    if isinstance(meta.value, TensorMeta) and not _is_continuous(meta.value.dtype):
        return True
    name = str(getattr(node.target, "__name__", node.target))
    return name in _STOPS or name.endswith("_like") or name.startswith("new_") or _reads_data(node)


def _is_continuous(dtype: torch.dtype) -> bool:
    return bool(dtype.is_floating_point or dtype.is_complex)


def _reads_data(node: fx.Node) -> bool:
    return node.target is getattr and bool(node.args[1] == "data")


def _is_asked(trace: Trace, node: fx.Node) -> bool:
    """Say whether a gradient by an input is asked for."""
    if trace.decisions.assumptions.gradients != "checked":
        return trace.decisions.assumptions.gradients == "all"
    inputs = [tensor for tensor, source in trace.provenance.nodes.items() if source is node]
    originals = trace.fakes.originals
    return any(bool(originals[tensor].requires_grad) for tensor in inputs if tensor in originals)


def _is_trained(trace: Trace, node: fx.Node) -> bool:
    told = trace.decisions.assumptions.gradients
    if node.op not in ("call_module", "get_attr") or told in _TOLD_UNTRAINED:
        return False
    inside = f"{node.target}."
    parameters = (value for name, value in trace.model.parameters.items() if f"{name}.".startswith(inside))
    return any(parameter.requires_grad or told == "all" for parameter in parameters)
