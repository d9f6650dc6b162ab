"""Patch torch while a model runs, so that the trace is told what torch functions do not show."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from fxfeat.isolation.passing_changes import PassingChanges
from fxfeat.isolation.patching import patch
from fxfeat.isolation.torch_settings import count_modes
from fxfeat.trace.leaves import Leaves
from fxfeat.trace.patches.autocast import casting
from fxfeat.trace.patches.called_names import CalledNames, wrap_names
from fxfeat.trace.patches.catching import catching
from fxfeat.trace.patches.checkpoints import checkpointing
from fxfeat.trace.patches.fast_paths import choosing_fast_paths
from fxfeat.trace.patches.modes import asking
from fxfeat.trace.patches.module_attributes import accessing
from fxfeat.trace.patches.module_calls import ModuleCalls, calling_modules
from fxfeat.trace.patches.python_draws import PythonDraws, drawing, find_unseen
from fxfeat.trace.patches.torch_functions import (
    counting,
    exchanging,
    importing,
    locating,
    refusing,
    refusing_denormals,
    refusing_pickles,
    refusing_saved_tensors,
)
from fxfeat.trace.patches.whole_functions import applying, calling_scripts
from fxfeat.trace.recorder import Recorder

_NOTICING = (
    *(refusing_pickles, refusing_saved_tensors, refusing, refusing_denormals),
    *(asking, importing, locating, exchanging),
)


@contextmanager
def patched(
    model: nn.Module, recorder: Recorder, leaves: Leaves, draws: PythonDraws, passing: PassingChanges | None
) -> Iterator[ModuleCalls]:
    """Patch torch until the region is left; what is yielded runs the model."""
    trace, modules = recorder.trace, list(model.modules())
    with ExitStack() as undo:
        names = CalledNames(trace, leaves, undo, counting(trace))
        calls = ModuleCalls(trace, leaves, names, draws, passing)
        patch(undo, [calling_modules(calls, modules)])
        patch(undo, accessing(trace, calls.reached, modules))
        patch(undo, [(torch.autograd.Function, "apply", applying(trace))])
        patch(undo, [(torch._C.ScriptFunction, "__call__", calling_scripts(trace))])
        noticing = [*itertools.chain(*(notice(trace) for notice in _NOTICING)), *drawing(trace, draws)]
        names.replacements.update({id(getattr(home, name)): replacement for home, name, replacement in noticing})
        patch(undo, noticing)
        patch(undo, itertools.chain(choosing_fast_paths(trace), catching(trace), checkpointing(trace)))
        count_modes(undo, recorder, lambda: trace.calls.live_here, trace.settings.modes)
        patch(undo, casting(trace))
        wrap_names(names, modules)
        yield calls
        find_unseen(draws)
