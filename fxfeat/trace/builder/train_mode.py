"""What torch's own modules do in train mode besides what they do in eval mode, so that one trace can serve both."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torchvision.ops import StochasticDepth

from fxfeat.ir.node_meta import RNG, Storage
from fxfeat.ir.source_lines import names_in
from fxfeat.isolation.preserved import sets_modes
from fxfeat.trace.builder.fakes import fake_of
from fxfeat.trace.builder.measure import storage_of
from fxfeat.trace.builder.trace import Trace

MODE = "training"
_HOMES = ("torch.nn.modules.", "torchvision.ops.")
_ACCESSING = (MODE, "__getattribute__", "__setattr__")
_TRACKED = ("running_mean", "running_var", "num_batches_tracked")
_NOTHING: frozenset[Storage] = frozenset()
_DRAW: frozenset[Storage] = frozenset({RNG})

Rule = Callable[[Trace, Any, tuple[Any, ...]], frozenset[Storage] | None]
"""Returns the memory that a module also writes to in train mode; None where it may do anything."""


def note_train_mode(trace: Trace, module: nn.Module, args: tuple[Any, ...]) -> None:
    """Note what a module that runs inside a whole call would also do in train mode."""
    if not trace.decisions.same_in_training:
        return
    kind: type = type(module)
    if MODE not in _names_of(kind) and not isinstance(module, torch.jit.ScriptModule):
        return
    rule = _RULES.get(kind)
    written = None if rule is None or "forward" in vars(module) else rule(trace, module, args)
    if written is None:
        trace.decisions.same_in_training = False
    else:
        trace.memory.effects.in_training |= written


def is_known_reader(frame: types.FrameType) -> bool:
    """Say whether it is code of torch's own modules that runs, or fxfeat's."""
    return str(frame.f_globals.get("__name__")).startswith((*_HOMES, "fxfeat."))


def sets_modes_plainly(model: nn.Module) -> bool:
    """Say whether setting a model's mode does nothing but set ``training``, and all who read it can be seen."""
    kinds: set[type] = {type(module) for module in model.modules()}
    return not any(map(sets_modes, model.modules())) and all(
        _attributes_of(kind).isdisjoint(_ACCESSING) for kind in kinds
    )


def names_mode(model: nn.Module) -> bool:
    """Say whether code of a model's own names its mode, and so may go by it."""
    kinds: set[type] = {type(module) for module in model.modules()}
    return any(MODE in _names_of(kind) for kind in kinds if kind not in _RULES)


@functools.lru_cache(maxsize=4096)
def _attributes_of(kind: type) -> frozenset[str]:
    """List the attributes that a class has beside those of every module."""
    return frozenset(name for parent in _own_classes(kind) for name in vars(parent))


@functools.lru_cache(maxsize=4096)
def _names_of(kind: type) -> frozenset[str]:
    """List the names that the methods of a class use, without those of every module."""
    return frozenset(name for parent in _own_classes(kind) for code in _code_in(parent) for name in names_in(code))


def _own_classes(kind: type) -> list[type]:
    return [parent for parent in kind.__mro__ if parent not in (nn.Module, object)]


def _code_in(kind: type) -> Iterator[types.CodeType]:
    for value in vars(kind).values():
        # Nothing is asked of other objects: one that stands for a missing package raises whatever is asked.
        function = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
        function = function.fget if isinstance(function, property) else function
        if isinstance(function, types.FunctionType):
            yield function.__code__


# -- rules -------------------------------------------------------------------------------------------------------------


def _batch_norm(trace: Trace, module: Any, args: tuple[Any, ...]) -> frozenset[Storage] | None:
    """One value for each channel is normalised in eval mode only."""
    given = args[0] if args else None
    if not isinstance(given, torch.Tensor) or given.numel() == given.shape[1:2].numel():
        return None
    tracked = module._buffers
    if not module.track_running_stats or tracked["running_mean"] is None:
        return _NOTHING
    return frozenset([storage_of(fake_of(trace, tracked[name])) for name in _TRACKED if tracked[name] is not None])


def _dropout(trace: Trace, module: Any, args: tuple[Any, ...]) -> frozenset[Storage] | None:
    if module.p == 0:
        return _NOTHING
    if not getattr(module, "inplace", False):
        return _DRAW
    return _DRAW | {storage_of(fake_of(trace, args[0]))} if args else None


def _recurrent(trace: Trace, module: Any, args: tuple[Any, ...]) -> frozenset[Storage]:
    return _DRAW if module.dropout else _NOTHING


_DROPPING = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_RULES: Mapping[type[nn.Module], Rule] = types.MappingProxyType(
    {
        **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
        **dict.fromkeys((*_DROPPING, StochasticDepth), _dropout),
        **dict.fromkeys((nn.MultiheadAttention, nn.RNN, nn.LSTM, nn.GRU), _recurrent),
    }
)
"""What else changes with the mode gives memory of its own in both: in eval mode dropout gives what it was given."""
