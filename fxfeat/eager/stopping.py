"""Find out whether a run that is stopped leaves undone what the rest of it would have put back."""

from __future__ import annotations

import contextlib
import contextvars
import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fxfeat.codegen.extractor import FeatureExtractor, build_extractor
from fxfeat.eager.observe import is_meta
from fxfeat.inputs.examples import copy_example
from fxfeat.ir.emission import Emission, ModeVariants
from fxfeat.isolation.module_paths import paths_of
from fxfeat.isolation.own_modes import set_mode
from fxfeat.isolation.preserved import lent_buffers, memory_of, preserved, put_memory_back
from fxfeat.isolation.python_state import PythonState
from fxfeat.isolation.torch_settings import read_switches, same_switches
from fxfeat.runtime.tapped_run import TRIAL
from fxfeat.trace.setup import Setup


def leaves_undone(setup: Setup, training: bool | None, emission: Emission) -> bool:
    """Say whether code that stops a module leaves the model, or settings of the process, otherwise than it found them.

    A model's code may set something for a while, a mode, a weight, an entry of a list, and put it back behind the last
    value. So code that stops anything is run once on the example, to its end, and looked at where it would be stopped.

    Args:
        setup: the model, which comes back as it was, and its example.
        training: the mode.
        emission: the code.
    """
    if not any(call.stops for call in emission.source.tapped) or is_meta(setup.model):
        return False
    model = _to_run(setup.model, emission)
    if model is None:
        return True
    extractor = build_extractor(ModeVariants(emission, emission, None), model, setup.tracer_kwargs)
    return contextvars.copy_context().run(_changes, model, extractor, setup, training)


def _to_run(model: nn.Module, emission: Emission) -> nn.Module | None:
    """Return the model, or a copy where its parameters may be written to, which nothing puts back."""
    if not emission.writes_parameters:
        return model
    with contextlib.suppress(Exception):
        return copy.deepcopy(model)
    return None


def _changes(model: nn.Module, extractor: FeatureExtractor, setup: Setup, training: bool | None) -> bool:
    with same_switches(), preserved(model) as before, torch.compiler.set_stance("force_eager"):
        if training is not None:
            set_mode(model, training)
            set_mode(extractor, training)
        comparison = _Comparison(model)
        memory = memory_of(model.parameters())
        token = TRIAL.set(comparison)
        try:
            with lent_buffers(model, also=before):
                example = copy_example(setup.examples[0])
                extractor(*example.args, **example.kwargs)
        except Exception:
            return False  # the example is one that the model was recorded on, but does not run on
        finally:
            TRIAL.reset(token)
            put_memory_back(memory)
        return comparison.differs


class _Comparison:
    """Compares the state of a model where a run would be stopped with that where it began."""

    def __init__(self, model: nn.Module) -> None:
        self.differs = False
        self._model = model
        self._python = PythonState()
        self._settings: tuple[Any, ...] = ()

    def begin(self) -> None:
        self._python, self._settings = PythonState(), _read_settings(self._model)
        self._python.take_modules(paths_of(self._model))

    def end(self) -> None:
        self.differs = self.differs or self._python.changed() or self._settings != _read_settings(self._model)


def _read_settings(model: nn.Module) -> tuple[Any, ...]:
    """Read what a run may set for a while and ``PythonState`` does not show."""
    weights = tuple((id(p), p.data_ptr(), p._version, p.requires_grad) for p in model.parameters())
    locks = tuple(is_held() for module in model.modules() for is_held in _locks_of(module))
    functions = tuple(id(function) for home in (torch, F) for function in vars(home).values())
    return (*read_switches(), *weights, *locks, *functions)


def _locks_of(module: nn.Module) -> list[Callable[[], bool]]:
    return [value.locked for value in vars(module).values() if callable(getattr(type(value), "locked", None))]
