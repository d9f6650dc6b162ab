"""Run the hooks that users put on modules: entered where they change values, called where they only look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module

from fxfeat.ir.module_call import ContainerAt
from fxfeat.ir.node_meta import Look, amend, meta_of
from fxfeat.ir.source_lines import names_in
from fxfeat.isolation.python_state import PythonState
from fxfeat.runtime.global_hooks import has_global_backward_hooks
from fxfeat.trace.builder.nodes import nodes_from, uncounted
from fxfeat.trace.builder.operands import add_call, to_write, write_arguments
from fxfeat.trace.builder.spelling import named
from fxfeat.trace.builder.trace import Trace
from fxfeat.trace.builder.unsupported import refuse
from fxfeat.trace.unobserved import unobserved

_OF_EVERY_MODULE = vars(nn.Module()).keys()


@dataclass(frozen=True)
class Hook:
    """One hook of a module: the callable, and whether it takes keyword arguments as well."""

    function: Callable[..., Any]
    with_kwargs: bool


def hooks_before(module: nn.Module) -> list[Hook]:
    """List the hooks that run before ``forward``."""
    every = {**torch_module._global_forward_pre_hooks, **module._forward_pre_hooks}
    return [Hook(function, key in module._forward_pre_hooks_with_kwargs) for key, function in every.items()]


def hooks_after(module: nn.Module) -> list[Hook]:
    """List the hooks that run after ``forward``."""
    every = {**torch_module._global_forward_hooks, **module._forward_hooks}
    with_kwargs = {*torch_module._global_forward_hooks_with_kwargs, *module._forward_hooks_with_kwargs}
    return [Hook(function, key in with_kwargs) for key, function in every.items()]


def has_hooks(module: nn.Module) -> bool:
    """Say whether anything runs around the module's ``forward``."""
    backward = module._backward_hooks or module._backward_pre_hooks or has_global_backward_hooks()
    return bool(hooks_before(module) or hooks_after(module) or backward)


def run_with_hooks(trace: Trace, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run ``forward`` between the module's hooks, as ``nn.Module.__call__`` does.

    Args:
        trace: what the calls are written to.
        path: where the module is.
        module: a module with hooks.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """
    if has_global_backward_hooks():
        refuse(trace, "a backward hook sits on all modules, which would not run where the code is written out")
    if module._backward_hooks or module._backward_pre_hooks:
        refuse(trace, f"a backward hook sits on {_spell(path)}, which would not run where the code is written out")
    for hook in hooks_before(module):
        changed = _run(trace, path, hook, module, args, kwargs, ())
        if changed is not None and hook.with_kwargs:
            args, kwargs = changed
        elif changed is not None:
            args = changed if isinstance(changed, tuple) else (changed,)
    if hooks_before(module):
        _note_arguments(trace, args, kwargs)
    result = module.forward(*args, **kwargs)
    for hook in hooks_after(module):
        changed = _run(trace, path, hook, module, args, kwargs, (result,))
        result = result if changed is None else changed
    return result


def _note_arguments(trace: Trace, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    calls, after_hooks = trace.calls.module_calls, (*write_arguments(trace, args, kwargs), trace.numbering.position)
    calls[trace.calls.owner] = replace(calls[trace.calls.owner], after_hooks=after_hooks)


def _run(
    trace: Trace, path: str, hook: Hook, module: nn.Module, args: Any, kwargs: Any, result: tuple[Any, ...]
) -> Any:
    """Run one hook and decide from what it did how it is to be written down."""
    given = (args, kwargs, *result) if hook.with_kwargs else (args, *result)
    with unobserved():
        written = to_write(trace, given)
    start, guards, obstacles = trace.numbering.position, trace.decisions.guards, trace.obstacles
    before = len(guards), len(obstacles.unsupported), len(obstacles.escapes)
    changed, keeps = _call(trace, hook, module, given)
    if changed is not None or _writes(trace, start):
        if keeps:
            refuse(trace, f"{_describe(hook, path)} changes values and Python state at once")
        return changed
    # What it computed in order to look is computed by itself, when the extractor calls it.
    attribute = _attribute_taken(hook, module)
    del guards[before[0] :], obstacles.unsupported[before[1] :], obstacles.escapes[before[2] :]
    if attribute is not None:
        refuse(
            trace, f"{_describe(hook, path)} uses {attribute!r} of it, which is not there where the code is written out"
        )
    idle = not keeps and trace.numbering.position == start
    with unobserved():
        node = add_call(trace, "call_function", _target_of(hook), (ContainerAt(path), *written), {})
    amend(node, look=Look(_describe(hook, path), idle), counted=False)
    return None


def _call(trace: Trace, hook: Hook, module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, bool]:
    """Call a hook; return what it returns, and whether it changed what Python holds."""
    state = PythonState()
    state.take_function(hook.function)
    with uncounted(trace):
        result = hook.function(module, *given)
    return result, state.changed()


def _attribute_taken(hook: Hook, module: nn.Module) -> str | None:
    """Return an attribute that a module keeps in plain Python and a hook names, if there is one."""
    code = getattr(hook.function, "__code__", None)
    own = vars(module).keys() - _OF_EVERY_MODULE
    return next((name for name in names_in(code) if name in own), None) if code is not None else None


def _target_of(hook: Hook) -> Callable[..., Any]:
    if hasattr(hook.function, "__name__"):
        return hook.function
    kind = type(hook.function)
    return named(hook.function, kind.__name__, kind.__module__)


def _writes(trace: Trace, start: int) -> bool:
    metas = [meta_of(node) for node in nodes_from(trace, start)]
    return any(meta.writes - meta.may_write or meta.draws for meta in metas)


def _describe(hook: Hook, path: str) -> str:
    name = getattr(hook.function, "__qualname__", type(hook.function).__name__)
    return f"the hook {name} on {_spell(path)}"


def _spell(path: str) -> str:
    return repr(path) if path else "the model itself"
