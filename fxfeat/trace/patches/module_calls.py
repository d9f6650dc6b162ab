"""See calls of modules: whole ones are written as one node, the others are entered."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import sys
import types
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fxfeat.ir.guard import Unsupported
from fxfeat.ir.module_call import ModuleCall, hide_modules, opaque_in
from fxfeat.ir.tree import children, is_named_tuple, replace_children, tensors, walk
from fxfeat.isolation.passing_changes import PassingChanges, Places, may_look_at
from fxfeat.runtime.form_of import TENSOR, Keys, describe_form
from fxfeat.trace.builder.given_containers import contents_of, have_changed
from fxfeat.trace.builder.leaf_memo import NOTHING, look_at, recall, remember
from fxfeat.trace.builder.measure import LITERALS
from fxfeat.trace.builder.memory import WholeCall
from fxfeat.trace.builder.nodes import next_call_path
from fxfeat.trace.builder.operands import to_write, write_arguments
from fxfeat.trace.builder.provenance import give_identity, node_of, tie_to_module_call
from fxfeat.trace.builder.regions import contexts_in_force, enter_switches, notice_devices, notice_switches
from fxfeat.trace.builder.replaced_values import count_calls, replace_returned
from fxfeat.trace.builder.results import write_result
from fxfeat.trace.builder.trace import Effects, Trace
from fxfeat.trace.builder.train_mode import note_train_mode
from fxfeat.trace.builder.unanswerable import refuse_in_try
from fxfeat.trace.builder.unsupported import current_line, note_attribute_write, refuse
from fxfeat.trace.leaves import Leaves, is_of_torch
from fxfeat.trace.patches.called_names import CalledNames, wrap_files
from fxfeat.trace.patches.hooks import has_hooks, run_with_hooks
from fxfeat.trace.patches.python_draws import PythonDraws, note_draws, notice_draws
from fxfeat.trace.patches.replacement import Replacement
from fxfeat.trace.proxies import numbers
from fxfeat.trace.proxies.sequences import plain_numbers
from fxfeat.trace.unobserved import unobserved


@dataclass(frozen=True)
class Passed:
    """What Python held otherwise when a module was called than when the code that calls it began."""

    places: Places
    module: nn.Module
    unsupported: Unsupported


@dataclass(frozen=True)
class ModuleCalls:
    """What it takes to see calls of modules: how often each path was called, and how each call reached a module last.

    Code may read a module, and call others that have it, too, before it calls it.

    ``passing`` tells what Python holds otherwise than before, ``places`` is that at the start of each call, and
    ``passed`` the calls of modules that found it changed. ``taken`` is the path by which a module is being called,
    where it has several; ``parameters`` are the tables of parameters in each module that was called.
    """

    trace: Trace
    leaves: Leaves
    names: CalledNames
    draws: PythonDraws
    passing: PassingChanges | None = None
    passed: list[Passed] = field(default_factory=list)
    places: dict[int, Places] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    reached: dict[tuple[int, int], str] = field(default_factory=dict)
    taken: dict[int, str] = field(default_factory=dict)
    parameters: dict[int, list[dict[str, Any]]] = field(default_factory=dict)


def calling_modules(calls: ModuleCalls, modules: Collection[nn.Module]) -> Replacement:
    """Return what writes calls of modules down, and where it stands.

    ``nn.Module.__call__`` does no more than call ``_call_impl``, which is replaced in no time: for a method with
    underscores at both ends, Python goes through all classes that inherit it.
    """
    name = "_call_impl" if all(map(_is_called_plainly, modules)) else "__call__"
    plain = getattr(nn.Module, name)

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return _call(calls, module, functools.partial(plain, module), args, kwargs)

    return nn.Module, name, call


def _is_called_plainly(module: nn.Module) -> bool:
    return module._compiled_call_impl is None and type(module)._call_impl is nn.Module._call_impl


def run_model(calls: ModuleCalls, model: nn.Module, args: Any, kwargs: Any) -> None:
    """Call the model the way a user does; a class with a ``__call__`` of its own gets a module call around that."""
    if type(model).__call__ is nn.Module.__call__:
        model(*args, **kwargs)
        return
    with _OpenCall(calls, "", model, *write_arguments(calls.trace, tuple(args), kwargs), leaf=False) as call:
        call.close(model(*args, **kwargs))


def _call(calls: ModuleCalls, module: nn.Module, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    trace = calls.trace
    if not trace.calls.live_here:
        return _run_inside(trace, module, plain, args, kwargs) if trace.calls.active_here else plain(*args, **kwargs)
    if id(module) not in trace.model.paths:
        wrap_files(calls.names, [module])
        return plain(*args, **kwargs)
    if trace.calls.opened:
        refuse_in_try(trace, _calling_frame())
    path = _path_of(calls, module)
    lent = _is_lent(calls, module)
    index = len(trace.calls.module_calls)
    if path and calls.leaves.has_module(module, path) and not lent:
        result = _call_whole(calls, path, module, plain, args, kwargs)
    else:
        if lent:
            note_attribute_write(trace, path, "parameters")
        result = _enter(calls, path, module, plain, args, kwargs)
    if not path or not trace.replacing.returned:
        return result
    return replace_returned(trace, module, count_calls(trace, id(module), index), index, result)


def _is_lent(calls: ModuleCalls, module: nn.Module) -> bool:
    """Say whether a module has parameters that are not its own, as ``functional_call`` lends them."""
    state = calls.trace.model.state
    return any(
        id(parameter) not in state
        for parameters in _parameters_in(calls, module)
        for parameter in parameters.values()
        if parameter is not None
    )


def _parameters_in(calls: ModuleCalls, module: nn.Module) -> list[dict[str, Any]]:
    """List the tables of parameters of a module and all in it, which ``module.parameters()`` takes long to find."""
    if id(module) not in calls.parameters:
        inner = (_parameters_in(calls, child) for child in module._modules.values() if child is not None)
        calls.parameters[id(module)] = [module._parameters, *itertools.chain(*inner)]
    return calls.parameters[id(module)]


_CALLING = ("fxfeat.", "torch.nn.modules.module")


def _calling_frame() -> types.FrameType | None:
    """Return the frame whose code calls a module: behind fxfeat's own and those of ``nn.Module.__call__``."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(_CALLING):
        if frame.f_code is run_model.__code__:
            return None  # what comes before is the code of who makes the extractor
        frame = frame.f_back
    return frame


def _path_of(calls: ModuleCalls, module: nn.Module) -> str:
    """Return the path by which the caller reached the module, where it has several."""
    stack, paths = calls.trace.calls, calls.trace.model.paths[id(module)]
    reached = calls.reached.pop((stack.owner, id(module)), None)
    if len(paths) == 1 or not stack.opened:
        return paths[0]
    if reached in paths:
        calls.taken[id(module)] = str(reached)
        # Two attributes of one module are one name.
        return next(path for path in paths if path.rpartition(".")[0] == str(reached).rpartition(".")[0])
    caller = stack.module_calls[stack.owner].path
    return max(paths, key=lambda path: _shared_parts(path, caller))


def _shared_parts(path: str, caller: str) -> int:
    parts, reference = path.split("."), caller.split(".") if caller else []
    shared = 0
    while shared < min(len(parts), len(reference)) and parts[shared] == reference[shared]:
        shared += 1
    return shared


def _call_whole(
    calls: ModuleCalls, path: str, module: nn.Module, plain: Callable[..., Any], args: Any, kwargs: Any
) -> Any:
    trace, written = calls.trace, write_arguments(calls.trace, args, kwargs)
    if opaque_in(written):
        return _enter(calls, path, module, plain, args, kwargs)
    with _OpenCall(calls, path, module, *written, leaf=True) as call:
        # The code of a scripted module calls nothing that a recorder could see.
        with WholeCall(trace, (args, kwargs)) as effects:
            result = _run_inside(trace, module, plain, plain_numbers(args), plain_numbers(kwargs))
        # What is not torch's own may squeeze, or draw from Python.
        if not is_of_torch(module):
            trace.decisions.squeezes = True
            note_draws(calls.draws, effects)
        with unobserved():
            result = write_result(trace, "call_module", path, *written, result, effects)
        call.close(result)
    return result


def _run_inside(trace: Trace, module: nn.Module, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Run a module inside a whole call; a leaf of torch's is not run where it would do what another has done."""
    with unobserved():
        note_train_mode(trace, module, args)
        call = look_at(trace, module, args, kwargs)
        recalled = NOTHING if call is None else recall(trace, call)
    if recalled is not NOTHING:
        return recalled
    if call is None:
        return plain(*args, **kwargs)
    outer, trace.memory.effects = trace.memory.effects, Effects()
    try:
        result = plain(*args, **kwargs)
        with unobserved():
            remember(trace, call, result)
        return result
    finally:
        outer.add(trace.memory.effects)
        trace.memory.effects = outer


def _enter(calls: ModuleCalls, path: str, module: nn.Module, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    trace = calls.trace
    contents = contents_of((*args, *kwargs.values()))
    with _OpenCall(calls, path, module, *write_arguments(trace, args, kwargs), leaf=False) as call:
        if getattr(module, "tapped", ()) and hasattr(type(module), "find_tapped"):
            refuse(trace, "an extractor inside the model runs modules whole, with hooks of its own")
        hooked = has_hooks(module)
        result = run_with_hooks(trace, path, module, args, kwargs) if hooked else plain(*args, **kwargs)
        if not path:
            # Nothing of the model comes after it.
            index = trace.calls.owner
            result = replace_returned(trace, module, count_calls(trace, id(module), index), index, result)
        with unobserved():
            given = set() if isinstance(result, torch.Tensor) else _containers(args, kwargs)
            result = _hand_back(trace, result, given)
        call.close(result)
        if have_changed(contents) or _are_marked(result, trace.fake_tensors.own_names):
            _note(trace, leaves_behind=True)
    return result


def _are_marked(result: Any, own_names: frozenset[str]) -> bool:
    """Say whether code has put attributes on a tensor."""
    return any(not own_names.issuperset(vars(tensor)) for _, tensor in tensors(result))


def _note(trace: Trace, **noted: Any) -> None:
    """Note more about the module call that runs."""
    module_calls, index = trace.calls.module_calls, trace.calls.owner
    module_calls[index] = dataclasses.replace(module_calls[index], **noted)


class _OpenCall:
    """A module call from its first node to its result; a generator in its place would take longer than most calls."""

    def __init__(self, calls: ModuleCalls, path: str, module: nn.Module, args: Any, kwargs: Any, *, leaf: bool) -> None:
        _notice_changes(calls, module)
        self._calls = calls
        self._call = _describe_call(calls, path, module, args, kwargs, leaf)

    def __enter__(self) -> _OpenCall:
        calls, call, stack = self._calls, self._call, self._calls.trace.calls
        calls.counts[call.path] += 1
        stack.module_calls.append(call)
        stack.call_paths[call.index] = next_call_path(calls.trace)
        enter_switches(calls.trace, call.index)
        stack.opened.append(call.index)
        return self

    def close(self, result: Any) -> None:
        """Note what the call returns."""
        _close(self._calls, self._call, result)

    def __exit__(self, *details: object) -> None:
        self._calls.trace.calls.opened.pop()


def _notice_changes(calls: ModuleCalls, module: nn.Module) -> None:
    """Notice what the calling code did that torch functions do not show."""
    notice_draws(calls.trace, calls.draws)
    if not calls.trace.calls.opened:
        return
    notice_switches(calls.trace)
    if not calls.leaves.is_leaf_kind(module):
        notice_devices(calls.trace)
        _notice_passing(calls, module)


def _notice_passing(calls: ModuleCalls, module: nn.Module) -> None:
    """Note what the calling code has changed in Python since it began: it may put that back behind the call."""
    if calls.passing is None:
        return
    stack = calls.trace.calls
    now = calls.places[len(stack.module_calls)] = calls.passing.now(module)
    changed = now - calls.places.get(stack.owner, frozenset())  # nothing has changed before the first call
    if changed and stack.opened:
        reason = f"its code changes what Python holds, and then calls a module, at {current_line()}"
        unsupported = Unsupported(reason, stack.owner, calls.trace.numbering.position)
        calls.passed.append(Passed(changed, module, unsupported))


def refuse_passing(calls: ModuleCalls) -> None:
    """Refuse to write out code that changes what Python holds for as long as it calls a module that may look there.

    What stays changed shows after the run.
    """
    if calls.passing is None or not calls.passed:
        return
    for each in calls.passed:
        passing = each.places - calls.passing.now(each.module)
        if passing and may_look_at(each.module, passing):
            calls.trace.obstacles.unsupported.append(each.unsupported)


def _describe_call(calls: ModuleCalls, path: str, module: nn.Module, args: Any, kwargs: Any, leaf: bool) -> ModuleCall:
    trace, stack = calls.trace, calls.trace.calls
    return ModuleCall(
        index=len(stack.module_calls),
        path=path,
        call=calls.counts[path],
        parent=stack.opened[-1] if stack.opened else None,
        start=trace.numbering.position,
        module=id(module),
        args=args,
        kwargs=kwargs,
        leaf=leaf,
        entered=bool(path) and not leaf and calls.leaves.is_leaf_kind(module),
        contexts=contexts_in_force(trace),
        reached=calls.taken.pop(id(module), path),
    )


def _close(calls: ModuleCalls, module_call: ModuleCall, result: Any) -> None:
    trace = calls.trace
    if not module_call.leaf:
        notice_draws(trace, calls.draws)
    with unobserved():
        described = hide_modules(to_write(trace, result))
        nodes = tuple((steps, node_of(trace, tensor)) for steps, tensor in tensors(result))
        nodes += tuple((steps, part.node) for steps, part in walk(result) if isinstance(part, numbers.RECORDED))
        form, free = _describe_form(result)
    noted = trace.calls.module_calls[module_call.index]
    trace.calls.module_calls[module_call.index] = dataclasses.replace(
        noted, stop=trace.numbering.position, result=described, result_nodes=nodes, form=form, free=free
    )
    if not module_call.leaf and not isinstance(result, torch.Tensor):
        _tie_objects(trace, result, module_call.index)


def _describe_form(result: Any) -> tuple[Any, tuple[Keys, ...]]:
    """Describe the form of a result, in which recorded numbers may be any."""
    if isinstance(result, torch.Tensor):
        return TENSOR, ()
    free: list[Keys] = []

    def is_free(part: Any, keys: Keys) -> bool:
        if isinstance(part, numbers.RECORDED):
            free.append(keys)
        return isinstance(part, numbers.RECORDED)

    return describe_form(result, is_free), tuple(free)


def _tie_objects(trace: Trace, result: Any, index: int) -> None:
    for steps, part in walk(result):
        if not isinstance(part, (torch.Tensor, tuple, list, dict, nn.Module, *LITERALS)):
            tie_to_module_call(trace, part, index, steps)


def _containers(args: Any, kwargs: Any) -> set[int]:
    """Identify what a call is given that is no tensor."""
    return {id(value) for _, value in walk((args, kwargs)) if not isinstance(value, torch.Tensor)}


def _hand_back(trace: Trace, result: Any, given: Collection[int]) -> Any:
    """Give a tensor that a module returned as it came an identity of its own.

    What is downstream of the module must go through it: on another input it may not return what it was given. A
    list or a dict that the module was given stays the one that the caller holds.
    """
    if isinstance(result, torch.Tensor):
        return give_identity(trace, result, trace.calls.module_calls[trace.calls.owner].start)
    plain = type(result) in (tuple, list, dict, OrderedDict) or is_named_tuple(result)
    if id(result) in given or not (plain or dataclasses.is_dataclass(type(result))):
        return result
    parts = [(step, part, _hand_back(trace, part, given)) for step, part in children(result)]
    return replace_children(result, {step: new for step, part, new in parts if new is not part})
