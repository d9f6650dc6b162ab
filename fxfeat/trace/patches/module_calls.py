"""See the calls that torch functions do not show: modules, compiled and scripted functions, regions, attributes."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.utils.checkpoint import CheckpointFunction

from fxfeat.ir.module_call import ModuleCall, Opaque, hide_modules
from fxfeat.ir.node_meta import DRAWN, MODEL_DEVICE, Context
from fxfeat.ir.tree import children, is_named_tuple, map_structure, replace_children, tensors, walk
from fxfeat.isolation.patching import patch
from fxfeat.isolation.random_state import outside_torch
from fxfeat.isolation.torch_settings import count_modes
from fxfeat.trace.builder.graph import Effects
from fxfeat.trace.builder.measure import LITERALS
from fxfeat.trace.leaves import FLEX_ATTENTION, Leaves
from fxfeat.trace.patches.hooks import has_hooks, run_with_hooks
from fxfeat.trace.patches.namespaces import find_namespaces
from fxfeat.trace.patches.torch_functions import (
    asking,
    counting,
    drawing,
    exchanging,
    importing,
    locating,
    refusing,
)
from fxfeat.trace.proxies import numbers
from fxfeat.trace.recorder import Recorder
from fxfeat.trace.unobserved import unobserved


class ModuleCallPatches:
    """Hands module calls, opaque functions and attribute writes to a recorder."""

    def __init__(self, model: nn.Module, recorder: Recorder, leaves: Leaves) -> None:
        self.recorder = recorder
        self.leaves = leaves
        self._thread = threading.get_ident()
        self._modules = list(model.modules())
        self._paths: dict[int, list[str]] = {}
        for path, module in model.named_modules(remove_duplicate=False):
            self._paths.setdefault(id(module), []).append(path)
        recorder.parameters.update(model.named_parameters())
        recorder.modules.update({key: paths[0] for key, paths in self._paths.items()})
        self._random = outside_torch()
        self._calls: dict[str, int] = {}
        self._reached: dict[int, str] = {}
        self._wrapped: set[int] = set()
        self._classes: set[type] = set()
        self._imported: dict[int, Any] = {}
        self._undo = ExitStack()
        self._counting = counting(recorder, self._mine)
        self._plain = {name: getattr(nn.Module, name) for name in ("__call__", "__getattr__", "__setattr__")}
        self._apply = torch.autograd.Function.__dict__["apply"]

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Patch torch while the model runs."""
        with self._undo as undo:
            for name, replacement in (("__call__", self._call), ("__getattr__", self._get), ("__setattr__", self._set)):
                patch(undo, nn.Module, name, _as_method(replacement))
            patch(undo, torch.autograd.Function, "apply", self._function_apply())
            patch(undo, torch._C.ScriptFunction, "__call__", self._scripted())
            replaced = [replace(self.recorder, self._mine) for replace in (refusing, asking, importing, locating)]
            others = (exchanging(self.recorder, self._here), drawing(self._draw))
            for home, name, replacement in itertools.chain(*replaced, *others):
                self._imported[id(getattr(home, name))] = replacement
                patch(undo, home, name, replacement)
            count_modes(undo, self.recorder, self._mine, self.recorder.modes)
            self._watch_autocast(undo)
            self._wrap_registered()
            self._wrap_files(self._modules)
            self._wrap_flex_attention()
            for module in self.leaves.searched:
                self._wrap_globals(vars(module))
            yield

    def run(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        """Call the model the way a user does; a class with a ``__call__`` of its own gets a module call around that."""
        if type(model).__call__ is nn.Module.__call__:
            model(*args, **kwargs)
            return
        with self._open("", model, *self._written(tuple(args), kwargs), leaf=False) as close:
            close(model(*args, **kwargs))

    def _here(self) -> bool:
        return self.recorder.active and threading.get_ident() == self._thread

    def _mine(self) -> bool:
        return self._here() and self.recorder.live

    # -- modules ----------------------------------------------------------------------------------------------------

    def _call(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        plain = functools.partial(self._plain["__call__"], module)
        if not self._mine():
            return plain(*args, **kwargs)
        if id(module) not in self._paths:
            self._wrap_files([module])
            return plain(*args, **kwargs)
        path = self._path_of(module)
        lent = any(not self.recorder.holds(held) for held in module.parameters())
        if path and self.leaves.has_module(module, path) and not lent:
            return self._leaf(path, module, plain, args, kwargs)
        if lent:
            self.recorder.note_setting(path, "parameters")
        return self._module_call(path, module, plain, args, kwargs)

    def _path_of(self, module: nn.Module) -> str:
        """Return the path by which the caller reached the module, where it has several."""
        paths = self._paths[id(module)]
        reached = self._reached.pop(id(module), None)
        if len(paths) == 1 or not self.recorder.stack:
            return paths[0]
        if reached in paths:
            return str(reached)
        caller = self.recorder.module_calls[self.recorder.owner].path
        return max(paths, key=lambda path: _shared_parts(path, caller))

    def _leaf(self, path: str, module: nn.Module, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        written = self._written(args, kwargs)
        if any(isinstance(held, Opaque) for _, held in walk(written)):
            return self._module_call(path, module, plain, args, kwargs)
        with self._open(path, module, *written, leaf=True) as close:
            # The code of a scripted module calls nothing that a recorder could see.
            with self.recorder.inside_leaf() as effects, self.recorder.writes_noticed(effects, (args, kwargs)):
                result = plain(*args, **kwargs)
            # What is not torch's own may squeeze, or draw from Python.
            if not type(module).__module__.startswith(("torch.nn", "torch.ao.nn")):
                self.recorder.squeezes = True
                self._note_draws(effects)
            with unobserved():
                result = self.recorder.write_result("call_module", path, *written, result, effects)
            close(result)
        return result

    def _module_call(self, path: str, module: nn.Module, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        with self._open(path, module, *self._written(args, kwargs), leaf=False) as close:
            if has_hooks(module):
                result = run_with_hooks(self.recorder, path, module, args, kwargs)
            else:
                result = plain(*args, **kwargs)
            with unobserved():
                result = self._hand_back(result, () if isinstance(result, torch.Tensor) else _containers(args, kwargs))
            close(result)
        return result

    def _written(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        with unobserved():
            return self.recorder.to_write(tuple(args)), self.recorder.to_write(dict(kwargs))

    @contextmanager
    def _open(
        self, path: str, module: nn.Module, args: Any, kwargs: Any, leaf: bool
    ) -> Iterator[Callable[[Any], None]]:
        recorder = self.recorder
        index = len(recorder.module_calls)
        call = self._calls.get(path, 0)
        self._calls[path] = call + 1
        parent = recorder.stack[-1] if recorder.stack else None
        self._notice_draws()
        if recorder.stack:
            recorder.notice_switches()
            if not self.leaves.is_leaf_kind(module):
                recorder.notice_devices()
        start = recorder.next_position()
        module_call = ModuleCall(
            index, path, call, parent, start, id(module), args, kwargs, leaf, contexts=recorder.context()
        )
        if path and not leaf and self.leaves.is_leaf_kind(module):
            module_call = dataclasses.replace(module_call, entered=True)
        recorder.module_calls.append(module_call)
        recorder.call_paths[index] = recorder.next_call_path()
        recorder.stack.append(index)
        recorder.notice_switches()

        def close(result: Any) -> None:
            if not leaf:
                self._notice_draws()
            with unobserved():
                described = hide_modules(recorder.to_write(result))
                nodes = tuple((steps, recorder.node_of(held)) for steps, held in tensors(result))
                nodes += tuple((s, held.node) for s, held in walk(result) if isinstance(held, numbers.RECORDED))
            stop = recorder.next_position()
            recorder.module_calls[index] = dataclasses.replace(
                module_call, stop=stop, result=described, result_nodes=nodes
            )
            self._remember_objects(result, index, leaf)

        try:
            yield close
        finally:
            recorder.stack.pop()

    def _notice_draws(self) -> None:
        """Refuse to write out code that drew from Python or NumPy what no draw of a number shows."""
        state = outside_torch()
        if state != self._random and self.recorder.stack:
            self.recorder.refuse(DRAWN)
        self._random = state

    def _note_draws(self, effects: Effects) -> None:
        """Note that a leaf drew from Python or NumPy."""
        state = outside_torch()
        if state != self._random:
            effects.note_draw()
        self._random = state

    def _draw(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Draw a number from Python or NumPy, and write that down."""
        if not self._mine():
            return function(*args, **kwargs)
        self._notice_draws()
        number = function(*_plain(args), **_plain(kwargs))
        if type(number) not in (int, float):
            return number
        self._random = outside_torch()
        with unobserved():
            return self.recorder.write_draw(function, *self._written(args, kwargs), number)

    def _remember_objects(self, result: Any, index: int, leaf: bool) -> None:
        if leaf or isinstance(result, torch.Tensor):
            return
        for steps, held in walk(result):
            if not isinstance(held, (torch.Tensor, tuple, list, dict, nn.Module, *LITERALS)):
                self.recorder.remember(held, index, steps)

    def _hand_back(self, result: Any, given: Collection[int]) -> Any:
        """Give a tensor that a module returned as it came an identity of its own.

        What is downstream of the module must go through it: on another input it may not return what it was given. A
        list or a dict that the module was given stays the one that the caller holds.
        """
        if isinstance(result, torch.Tensor):
            return self.recorder.passed(result, self.recorder.module_calls[self.recorder.owner].start)
        plain = type(result) in (tuple, list, dict, OrderedDict) or is_named_tuple(result)
        if id(result) in given or not (plain or dataclasses.is_dataclass(type(result))):
            return result
        parts = [(step, held, self._hand_back(held, given)) for step, held in children(result)]
        return replace_children(result, {step: new for step, held, new in parts if new is not held})

    # -- attributes -------------------------------------------------------------------------------------------------

    def _get(self, module: nn.Module, name: str) -> Any:
        value = self._plain["__getattr__"](module, name)
        if not self._mine():
            return value
        if isinstance(value, nn.Module):
            parents = self._paths.get(id(module), [])
            caller = self.recorder.module_calls[self.recorder.owner].path if self.recorder.stack else ""
            parent = caller if caller in parents else (parents[0] if parents else "")
            self._reached[id(value)] = f"{parent}.{name}" if parent else name
        elif isinstance(value, nn.Parameter) and self.recorder.stack:
            with unobserved():
                self.recorder.node_of(value)
        return value

    def _set(self, module: nn.Module, name: str, value: Any) -> None:
        if self._mine() and id(module) in self._paths and isinstance(value, torch.Tensor):
            path, held = self._paths[id(module)][0], module._buffers.get(name, vars(module).get(name))
            # What the code itself made before, in this run, is no state of the model's to be written to.
            if self.recorder.holds(held) or (path, name) in self.recorder.rebound:
                with unobserved():
                    self.recorder.write_attribute(path, module, name, value)
            elif name in module._parameters:
                self.recorder.note_setting(path, name)
        elif self._mine() and id(module) in self._paths and _held(module, name) is not value:
            self.recorder.note_setting(self._paths[id(module)][0], name)
        self._plain["__setattr__"](module, name, value)

    # -- functions --------------------------------------------------------------------------------------------------

    def _opaque(self, target: Callable[..., Any], args: Any, kwargs: Any, run: Callable[..., Any] | None = None) -> Any:
        """Call a function whole, unless nothing recorded goes in or something that cannot be written does."""
        run = run or target
        if not self._mine() or not any(_is_recorded(held) for _, held in walk((args, kwargs))):
            return run(*args, **kwargs)
        written = self._written(args, kwargs)
        if any(isinstance(held, Opaque) for _, held in walk(written)):
            return run(*args, **kwargs)
        numeric = not any(isinstance(held, torch.Tensor) for _, held in walk((args, kwargs)))
        with self.recorder.inside_leaf() as effects, self.recorder.writes_noticed(effects, (args, kwargs)):
            result = run(*_plain(args), **_plain(kwargs)) if numeric else run(*args, **kwargs)
        self.recorder.squeezes |= not numeric
        with unobserved():
            if isinstance(result, bool) and numeric:
                return self.recorder.decide(target, args, result)
            return self.recorder.write_result("call_function", target, *written, result, effects)

    def _function_apply(self) -> Any:
        plain = self._apply

        def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
            bound = plain.__get__(None, cls)
            if cls is CheckpointFunction and self._mine():
                return args[0](*args[2:])
            return self._opaque(bound, args, kwargs)

        return classmethod(apply)

    def _scripted(self) -> Any:
        plain = torch._C.ScriptFunction.__call__

        def call(function: Any, *args: Any, **kwargs: Any) -> Any:
            def run(*given: Any, **named: Any) -> Any:
                return plain(function, *self.recorder.to_run(given), **self.recorder.to_run(named))

            return self._opaque(function, args, kwargs, run) if self._mine() else run(*args, **kwargs)

        return call

    def _wrap_registered(self) -> None:
        """Honour ``torch.fx.wrap``."""
        for (_, name), namespace in list(fx._symbolic_trace._wrapped_fns_to_patch.items()):
            if name in namespace and callable(namespace[name]):
                self._wrap(namespace, name)

    def _wrap_flex_attention(self) -> None:
        """Models come to it by functions of files that have none of their classes, if anything has loaded it."""
        if FLEX_ATTENTION not in sys.modules:
            return
        for module in list(sys.modules.values()):
            namespace = getattr(module, "__dict__", {})
            if id(namespace.get("flex_attention")) in self.leaves.functions:
                self._wrap(namespace, "flex_attention")

    def _wrap_files(self, modules: Iterable[nn.Module]) -> None:
        """Wrap what the code of some modules calls by name."""
        kinds = frozenset(map(type, modules)) - self._classes
        self._classes |= kinds
        for namespace in find_namespaces(kinds):
            self._wrap_globals(namespace)

    def _wrap_globals(self, namespace: dict[str, Any]) -> None:
        if id(namespace) in self._wrapped:
            return
        self._wrapped.add(id(namespace))
        self._replace_names(namespace)
        for name, value in list(namespace.items()):
            if not name.startswith("_") and id(value) in self.leaves.functions:
                self._wrap(namespace, name)
            elif id(value) in self._imported:
                namespace[name] = self._imported[id(value)]
                self._undo.callback(namespace.__setitem__, name, value)

    def _replace_names(self, namespace: dict[str, Any]) -> None:
        for name, replacement in self._counting.items():
            if name not in namespace and "__name__" in namespace:
                namespace[name] = replacement
                self._undo.callback(namespace.pop, name, None)

    def _wrap(self, namespace: dict[str, Any], name: str) -> None:
        function = namespace[name]
        if getattr(function, "fxfeat_wraps", None) is not None:
            return

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return self._opaque(function, args, kwargs)

        wrapper.__name__ = getattr(function, "__name__", name)
        vars(wrapper).update(fxfeat_wraps=function, __wrapped__=function)
        namespace[name] = wrapper
        self._undo.callback(namespace.__setitem__, name, function)

    # -- regions ----------------------------------------------------------------------------------------------------

    def _watch_autocast(self, undo: ExitStack) -> None:
        region = torch.amp.autocast_mode.autocast
        enter, leave = region.__enter__, region.__exit__
        recorder, mine = self.recorder, self._mine

        def watched_enter(self: Any) -> Any:
            if mine():
                recorder.contexts.append(_autocast_context(self, recorder.device.type))
                recorder.refuse_on_meta(self._enabled)
            return enter(self)

        def watched_exit(self: Any, *details: Any) -> Any:
            if mine() and recorder.contexts:
                recorder.contexts.pop()
            return leave(self, *details)

        patch(undo, region, "__enter__", watched_enter)
        patch(undo, region, "__exit__", watched_exit)


def _containers(args: Any, kwargs: Any) -> set[int]:
    """Identify what a call is given that is no tensor."""
    return {id(held) for _, held in walk((args, kwargs)) if not isinstance(held, torch.Tensor)}


_UNSET = object()


def _held(module: nn.Module, name: str) -> Any:
    tables = (module._modules, module._parameters, module._buffers, vars(module))
    return next((table[name] for table in tables if name in table), _UNSET)


def _as_method(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def method(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return function(module, *args, **kwargs)

    return method


def _shared_parts(path: str, caller: str) -> int:
    parts, reference = path.split("."), caller.split(".") if caller else []
    shared = 0
    while shared < min(len(parts), len(reference)) and parts[shared] == reference[shared]:
        shared += 1
    return shared


def _is_recorded(value: Any) -> bool:
    return isinstance(value, (torch.Tensor, *numbers.RECORDED))


def _plain(value: Any) -> Any:
    return map_structure(value, numbers.plain)


def _autocast_context(region: Any, device_type: str) -> Context:
    device = MODEL_DEVICE if region.device == device_type else region.device
    arguments = (("device_type", device), ("dtype", region.fast_dtype), ("enabled", region._enabled))
    return Context(torch.autocast, arguments)
