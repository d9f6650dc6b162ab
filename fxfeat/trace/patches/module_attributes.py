"""See what a model's code reads from its modules and sets on them."""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn

from fxfeat.ir.guard import AttributeRead, Reading
from fxfeat.ir.source_lines import is_torch, names_in
from fxfeat.trace.builder.fakes import is_state
from fxfeat.trace.builder.given_containers import contents_of, have_changed
from fxfeat.trace.builder.provenance import node_of
from fxfeat.trace.builder.rebinding import write_rebinding
from fxfeat.trace.builder.trace import Trace
from fxfeat.trace.builder.train_mode import MODE, is_known_reader
from fxfeat.trace.builder.unsupported import note_attribute_write, note_unchanged
from fxfeat.trace.patches.replacement import Replacement
from fxfeat.trace.proxies.numbers import OwnFloat, own, plain
from fxfeat.trace.unobserved import unobserved

_UNSET = object()
_TELLING_THE_MODE = (MODE, "__dict__")
_SAYING_NOTHING = frozenset(dir(nn.Module())) - {*_TELLING_THE_MODE}
"""What every module has; most reads are of that, and the quicker they are told the better."""

_PARTS = (torch.Tensor, nn.Module)
_SETTINGS = (bool, int, float, complex, str, tuple, type(None))


def accessing(
    trace: Trace, reached: dict[tuple[int, int], str], modules: Collection[nn.Module]
) -> Iterator[Replacement]:
    """Yield what sees attributes of modules; ``reached`` is given the path by which code reached a module last."""
    look_up, get, set_ = object.__getattribute__, nn.Module.__getattr__, nn.Module.__setattr__

    def __getattribute__(module: nn.Module, name: str) -> Any:
        if name in _SAYING_NOTHING:
            return look_up(module, name)
        value = look_up(module, name)
        if name in _TELLING_THE_MODE and trace.calls.active:
            _note_mode(trace, sys._getframe(1), name)
        if name == "__dict__" and trace.calls.live_here and not is_torch(sys._getframe(1)):
            for each in [each for each, part in value.items() if isinstance(part, _SETTINGS) and each != MODE]:
                _note_read(trace, module, each, sys._getframe(1))
        if name != "__dict__" and trace.calls.live_here and _is_plain(module, name, value):
            _note_read(trace, module, name, sys._getframe(1), value)
            return own(value)
        return value

    def __getattr__(module: nn.Module, name: str) -> Any:
        if not trace.calls.live_here:
            return get(module, name)
        try:
            value = get(module, name)
        except AttributeError:
            _note_read(trace, module, name, None)
            raise
        if value is None or isinstance(value, nn.Module):
            _note_read(trace, module, name, None)
        _note_reach(trace, reached, module, name, value)
        return value

    def __setattr__(module: nn.Module, name: str, value: Any) -> None:
        value = plain(value) if isinstance(value, OwnFloat) else value
        if name == MODE and trace.calls.active:
            trace.decisions.same_in_training = False
        if trace.calls.live_here and id(module) in trace.model.paths:
            _note_write(trace, module, name, value)
        set_(module, name, value)

    classes = dict.fromkeys(map(type, modules))
    for replacement in (__getattribute__, __getattr__, __setattr__):
        for home in _homes(classes, replacement.__name__):
            yield home, replacement.__name__, replacement


def _homes(classes: Collection[type[nn.Module]], name: str) -> Collection[type[nn.Module]]:
    """Return where a method is replaced: in the model's own classes, if none of them has one of its own.

    In ``nn.Module`` it takes milliseconds: Python goes through all classes that inherit it, in the whole process.
    """
    inherited = getattr(nn.Module, name)
    return classes if all(getattr(each, name) is inherited for each in classes) else [nn.Module]


def _is_plain(module: nn.Module, name: str, value: Any) -> bool:
    """Say whether an attribute is the module's own or its class's, and neither a tensor nor what a class computes."""
    if isinstance(value, _PARTS):
        return False
    return name in vars(module) or not hasattr(inspect.getattr_static(type(module), name, value), "__get__")


def _note_read(trace: Trace, module: nn.Module, name: str, reader: types.FrameType | None, value: Any = None) -> None:
    """Note that the running code went by what an attribute is, or by there being none."""
    key = trace.calls.owner, id(module), name
    if key in trace.decisions.reads or id(module) not in trace.model.paths or not trace.calls.opened:
        return
    words = frozenset(names_in(reader.f_code)) if reader is not None else frozenset[str]()
    reading = Reading(trace.model.paths[id(module)][0], name, words)
    trace.decisions.reads[key] = AttributeRead(reading, trace.calls.owner, trace.numbering.position)
    if isinstance(value, (list, dict)):
        trace.decisions.contents[key] = contents_of((value,))


def forget_changed(trace: Trace) -> None:
    """Forget that code read lists and dicts which the run changed later: it had filled them itself before that."""
    for key, contents in trace.decisions.contents.items():
        if have_changed(contents):
            del trace.decisions.reads[key]


def _note_mode(trace: Trace, reader: types.FrameType, name: str) -> None:
    """Note that code may go by a mode; what torch's modules do by theirs while they run whole is known."""
    if (name == MODE and (trace.calls.live or not is_known_reader(reader))) or (name != MODE and not is_torch(reader)):
        trace.decisions.same_in_training = False


def _note_reach(trace: Trace, reached: dict[tuple[int, int], str], module: nn.Module, name: str, value: Any) -> None:
    if isinstance(value, nn.Module):
        parents = trace.model.paths.get(id(module), [])
        caller = trace.calls.module_calls[trace.calls.owner].path if trace.calls.opened else ""
        parent = caller if caller in parents else (parents[0] if parents else "")
        reached[trace.calls.owner, id(value)] = f"{parent}.{name}" if parent else name
    elif isinstance(value, nn.Parameter) and trace.calls.opened:
        with unobserved():
            node_of(trace, value)


def _note_write(trace: Trace, module: nn.Module, name: str, value: Any) -> None:
    path = trace.model.paths[id(module)][0]
    if not isinstance(value, torch.Tensor):
        note = note_unchanged if _current(module, name) is value else note_attribute_write
        note(trace, path, name, isinstance(value, _SETTINGS))
        return
    current = module._buffers.get(name, vars(module).get(name))
    # What the code itself made before, in this run, is no state of the model's to be written to.
    if is_state(trace, current) or (path, name) in trace.memory.rebound:
        with unobserved():
            write_rebinding(trace, path, module, name, value)
    elif name in module._parameters:
        note_attribute_write(trace, path, name)


def _current(module: nn.Module, name: str) -> Any:
    tables = (module._modules, module._parameters, module._buffers, vars(module))
    return next((table[name] for table in tables if name in table), _UNSET)
