"""Find out what a run changes of a model: often nothing, but for what the first run sets up."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from fxfeat.eager.observe import is_meta
from fxfeat.inputs.examples import copy_example, sizes_of
from fxfeat.ir.emission import Purity
from fxfeat.ir.example import Example
from fxfeat.ir.recording import Recording
from fxfeat.isolation.module_paths import paths_of
from fxfeat.isolation.own_modes import set_mode
from fxfeat.isolation.preserved import lent_buffers, preserved
from fxfeat.isolation.python_state import PythonState
from fxfeat.isolation.torch_settings import same_switches
from fxfeat.isolation.unwrap import unwrap
from fxfeat.trace.setup import Setup, record_variant


def find_purity(setup: Setup, recording: Recording, training: bool | None) -> Purity | None:
    """Say what a run of the model changes; None where it may be anything.

    Args:
        setup: the model, which comes back as it was, and how to record it.
        recording: one of the first run.
        training: the mode it was made in.
    """
    sizes = sizes_of(setup.examples[0])
    if recording.is_stateless:
        return Purity(sizes, (), _name_hooks(paths_of(setup.model)))
    if recording.writes_state:
        return None
    if is_meta(setup.model):
        return None
    try:
        hooks = _settle(setup, recording, training)
    except Exception:
        return None  # the example is one that the model was recorded on, but does not run on
    return None if hooks is None else Purity(sizes, _changing(recording), hooks)


def is_pure(model: nn.Module, purity: Purity, example: Example, training: bool | None) -> bool:
    """Say whether a model is in a mode, and a run of it changes no more than ``purity`` tells."""
    if purity.sizes != sizes_of(example) or unwrap(model) is not model:
        return False
    modules = paths_of(model)
    is_ready = all(training in (None, module.training) for module in modules)
    return is_ready and _name_hooks(modules) <= purity.hooks


def _settle(setup: Setup, recording: Recording, training: bool | None) -> frozenset[tuple[str, str]] | None:
    """Run the model, and record whether a second run changes anything; return the hooks that are on it by then."""
    model, example = setup.model, setup.examples[0]
    with same_switches(), preserved(model), torch.no_grad(), torch.compiler.set_stance("force_eager"):
        if training is not None:
            set_mode(model, training)
        few, before = PythonState(), PythonState()
        few.take_attributes([model.get_submodule(path) for path in _changing(recording)])
        before.take_modules(paths_of(model))
        with lent_buffers(model, also=before):
            given = copy_example(example)
            model(*given.args, **given.kwargs)
        hooks = _name_hooks(paths_of(model))
        # Without the mode: a model's train() may throw away what the run set up.
        is_settled = record_variant(setup, recording, None).is_stateless
        few.restore()
        return hooks if is_settled and not before.changed() else None


def _changing(recording: Recording) -> tuple[str, ...]:
    return tuple(dict.fromkeys(path for path, _ in recording.changed_attributes))


def _name_hooks(modules: dict[nn.Module, str]) -> frozenset[tuple[str, str]]:
    """Name the hooks on some modules, each with the path of its module."""
    hooked = [module for module in modules if module._forward_hooks or module._forward_pre_hooks]
    return frozenset(
        (modules[module], _name_of(hook))
        for module in hooked
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    )


def _name_of(hook: Any) -> str:
    function = hook.func if isinstance(hook, functools.partial) else hook
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"
