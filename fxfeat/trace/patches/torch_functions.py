"""What Python's own functions, and those that torch does not show, mean while a model is recorded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from fxfeat.ir.assumptions import Untold
from fxfeat.ir.source_lines import is_library, is_torch
from fxfeat.trace.builder.decisions import guard_count
from fxfeat.trace.builder.exposed_memory import note_exposure
from fxfeat.trace.builder.fakes import note_fresh
from fxfeat.trace.builder.questions import tied_device
from fxfeat.trace.builder.trace import Trace
from fxfeat.trace.builder.unsupported import current_line, refuse, refuse_after_escape
from fxfeat.trace.patches.replacement import Replacement
from fxfeat.trace.proxies import numbers
from fxfeat.trace.proxies.sequences import RecordedShape, RecordedTuple
from fxfeat.trace.unobserved import unobserved

_SEEDING = ("manual_seed", "seed", "set_rng_state")


def replace_class(original: type, make: Callable[..., Any]) -> type:
    """Make a class that ``isinstance`` takes for ``original`` and whose calls go to ``make``."""

    class Meta(type):
        def __instancecheck__(cls, value: Any) -> bool:
            return isinstance(value, original)

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            return make(*args, **kwargs)

    return Meta(original.__name__, (), {"__module__": original.__module__})


def counting(trace: Trace) -> dict[str, Any]:
    """Return Python's own functions that leave a trace of the sizes they are given."""

    def traced_range(*operands: Any) -> range:
        plain = range(*map(numbers.plain, operands))
        if not trace.calls.live_here or not any(isinstance(operand, numbers.RECORDED) for operand in operands):
            return plain
        # The elements follow from where it starts, how it steps, and how many there are.
        for operand in (operands[0], operands[2]) if len(operands) == 3 else operands[:-1]:
            int(operand)
        guard_count(trace, range, operands, len(plain))
        return range(plain.start, plain.start + len(plain) * plain.step, plain.step)

    def traced_len(value: Any) -> int:
        if not isinstance(value, torch.Tensor) or value.dim() == 0 or not trace.calls.live_here:
            return len(value)
        size: int = value.shape[0]
        return size

    return {
        "range": replace_class(range, traced_range),
        "len": traced_len,
        "type": replace_class(type, plain_type),
        "max": _choosing(trace, max),
        "min": _choosing(trace, min),
        "isinstance": told_isinstance,
    }


def _choosing(trace: Trace, choose: Callable[..., Any]) -> Callable[..., Any]:
    """Return a ``max`` or ``min`` that is written down, so that no comparison is checked, for numbers of one type."""

    def chosen(*args: Any, **kwargs: Any) -> Any:
        values = args[0] if len(args) == 1 and isinstance(args[0], (list, tuple)) else args
        recorded = [value for value in values if isinstance(value, numbers.RECORDED)]
        if not recorded or len(values) == 1 or kwargs or not trace.calls.live_here:
            return choose(*args, **kwargs)
        plain = list(map(numbers.plain, values))
        if set(map(type, plain)) not in ({int}, {float}):
            return choose(*args)
        return recorded[0].ledger.compute(choose, tuple(values), choose(plain))

    return chosen


_TensorType = type(torch.FloatTensor)


def told_isinstance(value: Any, kinds: Any) -> bool:
    """Answer as in eager mode: also what ``torch.FloatTensor`` is asked, which wants a device of its own.

    An argument that was taken to be unneeded cannot be asked.
    """
    if isinstance(value, torch.Tensor) and isinstance(kinds, (tuple, _TensorType)):
        listed = kinds if isinstance(kinds, tuple) else (kinds,)
        if any(isinstance(kind, (tuple, _TensorType)) for kind in listed):
            return any(_is_of_kind(value, kind) for kind in listed)
    return isinstance(value, kinds) or (type(value) is Untold and bool(value))


def _is_of_kind(tensor: torch.Tensor, kind: Any) -> bool:
    if isinstance(kind, _TensorType):
        return tensor.type() == f"{kind.__module__}.{kind.__name__}"
    return told_isinstance(tensor, kind)


def plain_type(*args: Any, **kwargs: Any) -> Any:
    """Return the type that a value has in eager mode: what is recorded is of subclasses."""
    if len(args) != 1 or kwargs:
        return type(*args, **kwargs)
    value = args[0]
    if type(value) is Untold:
        raise TypeError("this argument was taken to be unneeded")
    if isinstance(value, RecordedShape):
        return torch.Size
    return tuple if isinstance(value, RecordedTuple) else type(numbers.plain(value))


def exchanging(trace: Trace) -> Iterator[Replacement]:
    """Yield what notices calls that exchange a tensor's memory or give it away, which torch functions do not show."""

    def noticed(function: Callable[..., Any], name: str, what: str) -> Callable[..., Any]:
        def called(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if trace.calls.active_here and not is_torch(sys._getframe(1)):
                with unobserved():
                    note_exposure(trace, tensor, name, what)
            return function(tensor, *args, **kwargs)

        return called

    yield torch.Tensor, "set_", noticed(torch.Tensor.set_, "set_", "exchanged")
    handed_out = noticed(torch.utils.dlpack.to_dlpack, "__dlpack__", "handed out")
    for home in (torch, torch.utils.dlpack):
        yield home, "to_dlpack", handed_out


def importing(trace: Trace) -> Iterator[Replacement]:
    """Yield what notices tensors over memory of others, which torch functions do not show."""

    def noticed(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            if not trace.calls.live_here:
                return function(*args, **kwargs)
            with unobserved():
                tensor = function(*args, **kwargs)
            note_fresh(trace, tensor)
            return tensor

        return called

    # A tensor that is unpickled is an empty one that is then given memory.
    for home, name in ((torch, "from_numpy"), (torch, "frombuffer"), (torch._utils, "_rebuild_tensor")):
        yield home, name, noticed(getattr(home, name))


def locating(trace: Trace) -> Iterator[Replacement]:
    """Yield what ties the device of a fake tensor to the tensor that it is read from, which no torch function shows."""
    plain: Any = vars(FakeTensor)["device"]

    def device(tensor: FakeTensor) -> torch.device:
        if is_torch(sys._getframe(1)) or not trace.calls.live_here:
            own: torch.device = plain.fget(tensor)
            return own
        with unobserved():
            return tied_device(trace, tensor)

    yield FakeTensor, "device", property(device, plain.fset)


def refusing(trace: Trace) -> Iterator[Replacement]:
    """Yield what refuses to write out code that seeds, or makes a generator."""

    def refused(function: Callable[..., Any], what: str) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            if trace.calls.live_here:
                refuse(trace, f"the code at {current_line()} {what}")
            return function(*args, **kwargs)

        return called

    for home in (torch, torch.random):
        for name in _SEEDING:
            yield home, name, refused(getattr(home, name), "sets the random state")
    yield torch.random, "fork_rng", refused(torch.random.fork_rng, "sets the random state")
    refused_generator = refused(torch.Generator, "makes a generator of random numbers")
    yield torch, "Generator", replace_class(torch.Generator, refused_generator)


def refusing_saved_tensors(trace: Trace) -> Iterator[Replacement]:
    """Yield what refuses to write out code that changes what is kept for gradients, unless torch itself does."""
    home = torch.autograd.graph.saved_tensors_hooks
    enter = home.__enter__

    def entered(hooks: Any) -> Any:
        if trace.calls.live_here and (type(hooks) is home or not is_library(type(hooks))):
            refuse(trace, f"the code at {current_line()} changes what is kept for gradients")
        return enter(hooks)

    yield home, "__enter__", entered


def refusing_pickles(trace: Trace) -> Iterator[Replacement]:
    """Yield what refuses to write out code that pickles tensors."""
    reduce = torch.Tensor.__reduce_ex__

    def pickled(tensor: torch.Tensor, protocol: Any) -> Any:
        if trace.calls.live_here:
            refuse_after_escape(trace, "pickle")
        return reduce(tensor, protocol)

    yield torch.Tensor, "__reduce_ex__", pickled


def refusing_denormals(trace: Trace) -> Iterator[Replacement]:
    """Yield what refuses to write out code that has tiny numbers taken for 0, and does not set it."""
    flush = torch.set_flush_denormal

    def set_flush_denormal(mode: bool) -> bool:
        if not trace.calls.live_here:
            return flush(mode)
        # An error later in this run would leave it set, and no one can ask torch whether it is.
        refuse(trace, f"the code at {current_line()} sets whether tiny numbers are taken for 0")
        return True

    yield torch, "set_flush_denormal", set_flush_denormal
