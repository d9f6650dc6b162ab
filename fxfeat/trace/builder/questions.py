"""Answer what the model asks of its tensors as eager code would be answered, where fake tensors would not."""

from __future__ import annotations

from typing import Any

import torch

from fxfeat.ir.source_lines import is_torch
from fxfeat.trace.builder.decisions import guard_answer
from fxfeat.trace.builder.fakes import fake_of, is_state, keep
from fxfeat.trace.builder.gradients import decide_gradients, decide_training
from fxfeat.trace.builder.nodes import add_node
from fxfeat.trace.builder.provenance import node_of
from fxfeat.trace.builder.torch_call import TorchCall
from fxfeat.trace.builder.trace import Trace

NOT_A_QUESTION = object()
_DEVICE_QUESTIONS = frozenset(
    {
        *("is_cuda", "is_cpu", "is_xpu", "is_mps", "is_mtia", "is_hpu", "is_ipu", "is_xla", "is_vulkan"),
        "is_meta",
    }
)
_GRADIENT_QUESTIONS = frozenset({"requires_grad", "grad_fn", "is_leaf"})
_SOME_GRADIENT = object()


def answer_question(trace: Trace, call: TorchCall) -> Any:
    """Answer a question about a type, a device or a gradient; return ``NOT_A_QUESTION`` for any other call."""
    if call.name == "type" and trace.calls.live and not call.args[1:] and not call.kwargs:
        return _answer_about_type(trace, call.args[0])
    if call.attribute in _DEVICE_QUESTIONS:
        return _answer_about_device(trace, call)
    if call.attribute == "device":
        return tied_device(trace, call.args[0])
    if call.attribute not in _GRADIENT_QUESTIONS or call.name != "__get__":
        return NOT_A_QUESTION
    tensor = call.args[0]
    if is_state(trace, tensor):
        return _answer_about_state(trace, call)
    if trace.calls.live and id(fake_of(trace, tensor)) in trace.provenance.nodes:
        return _answer_about_gradients(trace, call.attribute, tensor)
    return NOT_A_QUESTION


def _answer_about_type(trace: Trace, tensor: torch.Tensor) -> str:
    """Answer as the original would, whose text names its device, and check that it stays so."""
    answer = torch.empty(0, dtype=fake_of(trace, tensor).dtype, device=_device_of(trace, tensor)).type()
    guard_answer(trace, torch.Tensor.type, (node_of(trace, tensor),), answer)
    return answer


def tied_device(trace: Trace, tensor: torch.Tensor) -> torch.device:
    """Return the device of a tensor, as an object that stands for having been read from it."""
    plain = _device_of(trace, tensor)
    if not trace.calls.live:
        return plain
    # A new object for each reading, so that its identity tells which tensor it was read from.
    device = torch.device(plain.type) if plain.index is None else torch.device(plain.type, plain.index)
    node = add_node(trace, "call_function", getattr, (node_of(trace, tensor), "device"), value=device)
    trace.provenance.objects[id(device)] = (node, ())
    keep(trace, device)
    return device


def _device_of(trace: Trace, tensor: torch.Tensor) -> torch.device:
    """Return the device of the original, since fake tensors may live elsewhere."""
    original = trace.fakes.originals.get(id(tensor), tensor)
    is_computed = id(original) in trace.provenance.nodes
    if is_computed or (trace.fake_tensors.kind == "meta" and original.is_meta):
        return trace.model.device
    return original.device


def _answer_about_device(trace: Trace, call: TorchCall) -> bool:
    """Answer for the original, and check that it stays so, where the model's own code asks."""
    tensor, attribute = call.args[0], str(call.attribute)
    answer = _device_of(trace, tensor).type == attribute.removeprefix("is_")
    if trace.calls.live and attribute != "is_meta" and not is_torch(call.caller):
        guard_answer(trace, getattr, (node_of(trace, tensor), attribute), answer)
    return answer


def _answer_about_state(trace: Trace, call: TorchCall) -> Any:
    """Answer for a parameter or a buffer itself, and check that it is still trained, or still is not."""
    answer = call.function(*call.args)
    if call.attribute != "requires_grad" or not trace.calls.live or is_torch(call.caller):
        return answer
    return decide_training(trace, node_of(trace, call.args[0]), answer)


def _answer_about_gradients(trace: Trace, attribute: str, tensor: torch.Tensor) -> Any:
    """Answer as eager code would, and check that it stays so."""
    answer = decide_gradients(trace, node_of(trace, tensor))
    if attribute == "requires_grad":
        return answer
    if attribute == "is_leaf":
        return not answer
    return _SOME_GRADIENT if answer else None
