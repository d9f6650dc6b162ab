"""Write every torch-level call of a running model into an fx graph."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from fxfeat.analysis.effects import attribute_of
from fxfeat.ir.guard import Answer
from fxfeat.ir.tree import tensors
from fxfeat.trace.builder.decisions import decide
from fxfeat.trace.builder.exposed_memory import (
    hand_out,
    notice_exchange,
    notice_exposure,
    sets_what_is_there,
)
from fxfeat.trace.builder.fakes import fake_of, note_fresh
from fxfeat.trace.builder.gradient_flags import sets_gradient_flag, write_gradient_flag
from fxfeat.trace.builder.nodes import add_node, note_dtype
from fxfeat.trace.builder.operands import to_write
from fxfeat.trace.builder.provenance import node_of
from fxfeat.trace.builder.questions import NOT_A_QUESTION, answer_question
from fxfeat.trace.builder.replaced_values import replace_computed
from fxfeat.trace.builder.results import write_failure, write_result
from fxfeat.trace.builder.run_call import ESCAPES, EXACT, run_call
from fxfeat.trace.builder.spelling import spell_call
from fxfeat.trace.builder.torch_call import TorchCall
from fxfeat.trace.builder.trace import Trace
from fxfeat.trace.builder.unanswerable import is_text_of_number, refuse_unanswerable
from fxfeat.trace.proxies import numbers
from fxfeat.trace.proxies.arrays import arrays_alone

_SILENT = frozenset(
    {
        *("requires_grad", "grad", "grad_fn", "is_leaf", "_version", "layout", "names", "_backward_hooks", "output_nr"),
        *("retains_grad", "_base", "_grad", "is_quantized", "is_nested", "name", "volatile", "__dict__"),
        *("is_inference", "_is_view", "is_conj", "is_neg", "_is_zerotensor", "is_sparse_csr", "is_mkldnn"),
        *("untyped_storage", "storage", "_typed_storage", "data_ptr", "is_shared", "is_pinned"),
        *("__repr__", "__format__", "__hash__", "__dir__"),
        *("requires_grad_", "register_hook", "retain_grad", "register_post_accumulate_grad_hook", "_set_grad_enabled"),
        *("_has_compatible_shallow_copy_type", "has_names", "is_distributed", "set_default_tensor_type"),
        *("_make_subclass", "__reduce_ex__", "__deepcopy__", "can_cast", "result_type", "promote_types", "get_device"),
        *("_is_functional_tensor", "is_autocast_enabled", "get_autocast_dtype", "_enter_autocast", "_exit_autocast"),
    }
)
"""Calls that are run and not written down."""


_ON_GRADIENTS = ("register_hook", "register_post_accumulate_grad_hook", "retain_grad")
"""Calls that fake tensors refuse, since they have no gradients."""


class Recorder(TorchFunctionMode):
    """The mode under which a model runs once."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        return record_call(self.trace, TorchCall(func, name, attribute_of(func), args, kwargs or {}, sys._getframe(1)))


def record_call(trace: Trace, call: TorchCall) -> Any:
    """Run a torch function on fake tensors, and note where it tells its caller anything but tensors."""
    result = _record(trace, call)
    if trace.calls.live and _tells(result):
        trace.decisions.answers.append(Answer(trace.calls.owner, trace.numbering.position))
    return result


def _tells(result: Any) -> bool:
    """Say whether a result is no tensor and may depend on sizes; those with named parts always have the same."""
    if isinstance(result, (torch.Tensor, torch.device, torch.dtype, type(None))):
        return False
    return not type(result).__module__.startswith("torch.return_types")


def _record(trace: Trace, call: TorchCall) -> Any:
    """Answer a call, run it unwritten, refuse it or write it down, whatever comes first."""
    if call.function is torch.device:
        return _make_device(call)
    answer = answer_question(trace, call)
    if answer is not NOT_A_QUESTION:
        return answer
    if call.name == "__format__" and is_text_of_number(trace, call):
        return _format_number(trace, call)
    if sets_gradient_flag(trace, call):
        return write_gradient_flag(trace, call)
    notice_exposure(trace, call)
    refuse_unanswerable(trace, call)
    if call.name in _ON_GRADIENTS and not fake_of(trace, call.args[0]).requires_grad:
        return RemovableHandle(OrderedDict())
    if not trace.calls.live or _is_silent(call):
        return _run_silently(trace, call)
    if call.name in ESCAPES:
        return hand_out(trace, call)
    if sets_what_is_there(trace, call):
        return None
    notice_exchange(trace, call)
    if arrays_alone(call.args, call.kwargs):
        return _carry_array(trace, call)
    return _write(trace, call)


def _format_number(trace: Trace, call: TorchCall) -> str:
    """Make a text out of the number that a tensor holds, which code goes by: it is read out, and checked."""
    number = _record(trace, TorchCall(torch.Tensor.item, "item", None, call.args[:1], {}, call.caller))
    if isinstance(number, numbers.RECORDED):
        number.ledger.pin(number, numbers.plain(number))
    return format(numbers.plain(number), *call.args[1:])


def _make_device(call: TorchCall) -> torch.device:
    """Make a device; one that is there already stays the object that it is, which tells where it was read."""
    is_device = call.args and isinstance(call.args[0], torch.device)
    device: torch.device = call.args[0] if is_device else call.function(*call.args, **call.kwargs)
    return device


def _run_silently(trace: Trace, call: TorchCall) -> Any:
    """Run a call that is not written down; a dtype that it tells counts as read from each tensor it is given."""
    result = run_call(trace, call.function, call.args, call.kwargs)[0]
    if trace.calls.live and isinstance(result, torch.dtype):
        for _, tensor in tensors((call.args, call.kwargs)):
            dtype = add_node(trace, "call_function", getattr, (node_of(trace, tensor), "dtype"), counted=False)
            note_dtype(trace, dtype, fake_of(trace, tensor).dtype)
    return result


def _is_silent(call: TorchCall) -> bool:
    if call.name == "_parse_to":  # what `module.to()` reads its arguments with
        return not list(tensors((call.args, call.kwargs)))
    return call.name in _SILENT or call.attribute in _SILENT


def _carry_array(trace: Trace, call: TorchCall) -> Any:
    """Make a tensor from NumPy arrays, which the extractor carries as a constant."""
    device = call.kwargs.get("device")
    result = call.function(*call.args, **{key: value for key, value in call.kwargs.items() if key != "device"})
    note_fresh(trace, result)
    if device is None:
        return result
    return record_call(trace, TorchCall(torch.Tensor.to, "to", None, (result, device), {}, sys._getframe()))


def _write(trace: Trace, call: TorchCall) -> Any:
    """Run a call and write it down."""
    key = (trace.calls.owner, call.name)
    occurrence = (call.name, trace.calls.occurrences[key])
    trace.calls.occurrences[key] += 1
    op, target, args, kwargs = spell_call(call.function, call.args, call.kwargs, call.caller)
    if call.name in EXACT:
        return decide(trace, EXACT[call.name], (call.args[0],), run_call(trace, call.function, call.args, {})[0])
    trace.decisions.squeezes |= str(getattr(target, "__name__", target)).startswith("squeeze")
    written, written_kwargs = to_write(trace, tuple(args)), to_write(trace, dict(kwargs))
    try:
        result, effects = run_call(trace, call.function, call.args, call.kwargs)
    except Exception as error:
        write_failure(trace, op, target, written, written_kwargs, error)
        raise
    result = write_result(trace, op, target, written, written_kwargs, result, effects, occurrence)
    return replace_computed(trace, occurrence, result)
