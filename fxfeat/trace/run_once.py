"""Run a model once under a recorder, and put everything back."""

from __future__ import annotations

import contextvars
import dataclasses
import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from fxfeat.inputs.examples import bind
from fxfeat.ir.assumptions import AS_IT_IS, Assumptions
from fxfeat.ir.example import Example
from fxfeat.ir.node_meta import CallPath
from fxfeat.ir.value_replacement import Replacement
from fxfeat.isolation.caches import fresh_caches
from fxfeat.isolation.collection import paused_collection
from fxfeat.isolation.own_modes import set_mode
from fxfeat.isolation.passing_changes import PassingChanges
from fxfeat.isolation.preserved import preserved, preserved_functions
from fxfeat.isolation.python_state import PythonState
from fxfeat.isolation.torch_settings import same_switches
from fxfeat.runtime.tapped_run import never_stopped
from fxfeat.trace.builder.given_containers import contents_of, have_changed
from fxfeat.trace.builder.gradients import check_gradients_are_off
from fxfeat.trace.builder.model_parts import add_modules, read_tensors
from fxfeat.trace.builder.placeholders import write_inputs
from fxfeat.trace.builder.rebinding import put_back
from fxfeat.trace.builder.replaced_values import read_replacements
from fxfeat.trace.builder.trace import Decisions, SettingsInForce, Trace, Watch
from fxfeat.trace.builder.unsupported import refuse_from_the_start
from fxfeat.trace.fake_tensors import FakeTensors, Originals
from fxfeat.trace.leaves import Leaves
from fxfeat.trace.patches.install import patched
from fxfeat.trace.patches.module_attributes import forget_changed
from fxfeat.trace.patches.module_calls import refuse_passing, run_model
from fxfeat.trace.patches.python_draws import PythonDraws
from fxfeat.trace.recorder import Recorder

_RECORDING = threading.RLock()


@dataclass(frozen=True)
class Conditions:
    """Under what a model is run, in which mode, and what is to be seen.

    ``existing`` are all tensors that there were, where that had to be asked; ``closely`` says to look for draws from
    Python or NumPy at every call of a module, ``replacements`` which values go through functions.
    """

    fake_tensors: FakeTensors
    training: bool | None
    gradients: bool
    assumptions: Assumptions = AS_IT_IS
    watched: frozenset[CallPath] = frozenset()
    existing: frozenset[int] | None = None
    closely: bool = False
    replacements: tuple[Replacement, ...] = ()

    @property
    def only_watches(self) -> bool:
        """Whether the model runs on its own tensors, to be watched and not to be written down."""
        return isinstance(self.fake_tensors, Originals)


@dataclass(frozen=True)
class Run:
    """One run of a model: what was written down, the mode it ran in, and what it changed in Python.

    ``changed`` are plain attributes, by path and name; ``mutated`` are other objects, by identity. ``draws_unseen``
    says that Python or NumPy drew, and where has not been looked at, ``holds_iterators`` that the model may keep state
    that nobody can see.
    """

    trace: Trace
    training: bool
    changed: list[tuple[str, str]]
    mutated: frozenset[int]
    draws_unseen: bool
    holds_iterators: bool


def run_once(model: nn.Module, example: Example, leaves: Leaves, conditions: Conditions) -> Run:
    """Run the model under a recorder, and put everything back."""
    settings = SettingsInForce(never=not (conditions.gradients or conditions.only_watches))
    parts = read_tensors(model, example, joins_memory=not conditions.only_watches)
    with _everything_preserved(model, conditions) as before:
        if conditions.training is not None:
            set_mode(model, conditions.training)
        mode = model.training
        is_real = conditions.fake_tensors.kind == "real" and not conditions.only_watches
        parts = add_modules(parts, model, before.tensors_held() if is_real else None, conditions.existing)
        decisions, watch = Decisions(conditions.assumptions), Watch(conditions.watched)
        replacing = read_replacements(model, conditions.replacements)
        trace = Trace(parts, conditions.fake_tensors, decisions, settings, watch, replacing)
        draws = PythonDraws(conditions.closely)
        _run_recorded(trace, model, example, leaves, draws, PassingChanges(before, list(model.modules())))
        forget_changed(trace)
        put_back(trace, model)
        changed = [place for place in before.changes_of(model) if place not in trace.memory.rebound]
        homes = {id(module.__dict__) for module in model.modules()}
        return Run(trace, mode, changed, before.mutated() - homes, draws.unseen, before.iterators)


@contextmanager
def _everything_preserved(model: nn.Module, conditions: Conditions) -> Iterator[PythonState]:
    """Put back the model and torch's settings on the way out; yield the Python state as it was."""
    with ExitStack() as around:
        # Torch is patched for the whole process meanwhile.
        around.enter_context(_RECORDING)
        if conditions.fake_tensors.kind == "meta":  # others hold memory that is worth the search
            around.enter_context(paused_collection())
        around.enter_context(fresh_caches(model))
        before = around.enter_context(preserved(model))
        around.enter_context(preserved_functions(each.function for each in conditions.replacements))
        around.enter_context(same_switches())
        around.enter_context(never_stopped())
        around.enter_context(torch.compiler.set_stance("force_eager"))
        # Tensors of inference mode do not tell when they are written to.
        around.enter_context(torch.inference_mode(False))
        around.enter_context(torch.set_grad_enabled(conditions.gradients))
        yield before


def _run_recorded(
    trace: Trace, model: nn.Module, example: Example, leaves: Leaves, draws: PythonDraws, passing: PassingChanges
) -> None:
    args, kwargs = write_inputs(trace, bind(model, example), example)
    if trace.settings.never:
        check_gradients_are_off(trace)
    recorder, given = Recorder(trace), PythonState()
    given.take_objects((example.args, example.kwargs))
    contents = contents_of((*args, *kwargs.values()))
    with patched(model, recorder, leaves, draws, passing) as calls, _without_log("torch._subclasses.fake_tensor"):
        try:
            with recorder:
                # What the model's code puts into context variables stays in there.
                context, before = contextvars.copy_context(), contextvars.copy_context()
                with _cut_short(trace):
                    context.run(run_model, calls, model, args, kwargs)
                refuse_passing(calls)
                if any(before.get(variable, _UNSET) is not value for variable, value in context.items()):
                    refuse_from_the_start(trace, "its code sets context variables, which the next call may read")
        finally:
            trace.calls.active = False
            writes = given.changed()
            given.restore()
    if writes:
        refuse_from_the_start(trace, "its code writes to an object that it is given")
    if have_changed(contents):
        refuse_from_the_start(trace, "its code changes a list or dict that it is given")


_UNSET = object()


@contextmanager
def _cut_short(trace: Trace) -> Iterator[None]:
    """End a run where it fails, if it was given something in place of arguments that are thought to be unneeded."""
    try:
        yield
    except Exception:
        if not trace.decisions.assumptions.stand_in:
            raise
        calls, end = trace.calls.module_calls, trace.numbering.position
        calls[:] = [dataclasses.replace(call, stop=end) if call.stop < 0 else call for call in calls]


@contextmanager
def _without_log(name: str) -> Iterator[None]:
    """Silence a logger that reports each failure of a fake tensor; the next kind of fake tensor is tried instead."""
    logger = logging.getLogger(name)
    before = logger.disabled
    # A level would do as well, but setting one makes every logger of the process forget its own.
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before
