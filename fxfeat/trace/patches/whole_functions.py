"""Call a function as one node: compiled and scripted ones, autograd functions, and those that are to stay whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointFunction

from fxfeat.ir.module_call import Opaque
from fxfeat.ir.tree import walk
from fxfeat.trace.builder.decisions import decide
from fxfeat.trace.builder.memory import WholeCall
from fxfeat.trace.builder.operands import to_run, write_arguments
from fxfeat.trace.builder.results import write_result
from fxfeat.trace.builder.trace import Trace
from fxfeat.trace.patches.checkpoints import enter_reentrant
from fxfeat.trace.proxies import numbers
from fxfeat.trace.proxies.sequences import plain_numbers, plain_parts
from fxfeat.trace.unobserved import unobserved


def call_whole(
    trace: Trace, target: Callable[..., Any], args: Any, kwargs: Any, run: Callable[..., Any] | None = None
) -> Any:
    """Call a function whole, unless nothing recorded goes in or something that cannot be written does."""
    run = run or target
    if not trace.calls.live_here:
        return run(*args, **kwargs)
    if not any(_is_recorded(value) for _, value in walk((args, kwargs))):
        return numbers.own(run(*args, **kwargs))
    written = write_arguments(trace, args, kwargs)
    if any(isinstance(value, Opaque) for _, value in walk(written)):
        return run(*args, **kwargs)
    numeric = not any(isinstance(value, torch.Tensor) for _, value in walk((args, kwargs)))
    with WholeCall(trace, (args, kwargs)) as effects:
        result = (
            run(*plain_parts(args), **plain_parts(kwargs))
            if numeric
            else run(*plain_numbers(args), **plain_numbers(kwargs))
        )
    trace.decisions.squeezes |= not numeric
    with unobserved():
        if isinstance(result, bool) and numeric:
            return decide(trace, target, args, result, **kwargs)
        return write_result(trace, "call_function", target, *written, result, effects)


def applying(trace: Trace) -> Any:
    """Return an ``autograd.Function.apply`` that is called whole, but for checkpoints, which are entered."""
    plain = torch.autograd.Function.__dict__["apply"]

    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        if cls is CheckpointFunction and trace.calls.live_here:
            return enter_reentrant(trace, args[0], *args[2:])
        return call_whole(trace, plain.__get__(None, cls), args, kwargs)

    return classmethod(apply)


def calling_scripts(trace: Trace) -> Any:
    """Return a ``ScriptFunction.__call__`` that is called whole."""
    plain = torch._C.ScriptFunction.__call__

    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        def run(*given: Any, **named: Any) -> Any:
            return plain(function, *to_run(trace, given), **to_run(trace, named))

        return call_whole(trace, function, args, kwargs, run) if trace.calls.live_here else run(*args, **kwargs)

    return call


def _is_recorded(value: Any) -> bool:
    return isinstance(value, (torch.Tensor, *numbers.RECORDED))
