"""Results of torch's own leaf modules on meta tensors, remembered for the next module of the same configuration.

One plain run of a convolutional network on meta tensors takes several times as long as torchvision's extractor, nearly
all of it Python decompositions of batch norms and activations, which come out the same each time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import get_default_dtype, is_grad_enabled, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd.graph import increment_version

from fxfeat.ir.node_meta import Storage, TensorMeta, measure
from fxfeat.ir.tree import leaves_of, map_structure
from fxfeat.trace.builder.fakes import adopt_result, fake_of
from fxfeat.trace.builder.measure import storage_of
from fxfeat.trace.builder.memory import note_versions
from fxfeat.trace.builder.meta_forms import Key, has_form, keep_result, may_remember
from fxfeat.trace.builder.trace import Effects, Trace
from fxfeat.trace.patches.hooks import has_hooks

_LEAVES: tuple[type[nn.Module], ...] = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.Embedding),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softmax, nn.LogSoftmax, nn.GLU),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool2d),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.MultiheadAttention),
)
"""Modules whose results and effects follow from their attributes and the forms of their inputs."""

_BOOKKEEPING = frozenset(vars(nn.Module()))
_STATE = (nn.Parameter, torch.Tensor)
_PLAIN = (int, float, bool, str, type(None))

NOTHING = object()


@dataclass(frozen=True)
class _Given:
    """Stands for an input in a result."""

    name: str


@dataclass(frozen=True)
class _Outcome:
    """What a call gave: forms in place of new tensors, names in place of its inputs; and the memory it read and wrote.

    They are named as in ``LeafCall``.
    """

    result: Any
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    draws: bool


_OUTCOMES: dict[Key, _Outcome] = {}


@dataclass(frozen=True)
class LeafCall:
    """A call of a leaf: what its result follows from, and the fake tensors that take part, by name.

    An input is named by its number, a tensor of the module by its path.
    """

    key: Key
    named: dict[str, torch.Tensor]


def look_at(trace: Trace, module: nn.Module, args: Any, kwargs: Any) -> LeafCall | None:
    """Return what the result of a call follows from; None where it has to be run."""
    if type(module) not in _LEAVES or not may_remember(trace) or has_hooks(module):
        return None
    parts = leaves_of((args, kwargs))
    tensors = [part for part in parts if isinstance(part, torch.Tensor)]
    literals = tuple([part for part in parts if not isinstance(part, torch.Tensor)])
    configuration = _configuration(module)
    if configuration is None or any(map(is_functorch_wrapped_tensor, tensors)) or not _are_plain(literals):
        return None
    fakes = [fake_of(trace, tensor) for tensor in tensors]
    if not all(map(has_form, fakes)):
        return None
    state = {name: fake_of(trace, tensor) for name, tensor in _state_of(module)}
    given = (len(args), tuple(kwargs), literals, tuple(map(measure, fakes)), _repeats(fakes))
    forms = (tuple(state), tuple(map(measure, state.values())))
    modes = (module.training, is_grad_enabled(), get_default_dtype())
    numbered = {str(number): fake for number, fake in enumerate(fakes)}
    return LeafCall((type(module), configuration, forms, given, modes), {**numbered, **state})


def _repeats(tensors: list[torch.Tensor]) -> tuple[int, ...]:
    """Tell which tensors are one and the same, by the number of the first."""
    numbers = [id(tensor) for tensor in tensors]
    return tuple(map(numbers.index, numbers))


def _configuration(module: nn.Module) -> Key | None:
    """List the attributes of a module and its children; None where one is no plain value."""
    attributes = vars(module)
    names = _own_names(tuple(attributes))
    own = tuple([attributes[name] for name in names])
    if not _are_plain(own):
        return None
    if not all(type(tensor) in _STATE and not is_functorch_wrapped_tensor(tensor) for _, tensor in _state_of(module)):
        return None
    if not module._modules:
        return (names, own)
    children = [(type(child), _configuration(child)) for child in module.children()]
    are_plain = all(configuration is not None for _, configuration in children)
    return (names, own, *children) if are_plain and not any(map(has_hooks, module.children())) else None


@functools.lru_cache(maxsize=1024)
def _own_names(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in _BOOKKEEPING)


def _are_plain(values: tuple[Any, ...]) -> bool:
    return all(type(value) in _PLAIN or _is_plain(value) for value in values)


def _is_plain(value: Any) -> bool:
    if type(value) is tuple:
        return all(map(_is_plain, value))
    return type(value) in _PLAIN


def _state_of(module: nn.Module, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for named in (module._parameters, module._buffers):
        yield from ((path + name, tensor) for name, tensor in named.items() if tensor is not None)
    for name, child in module._modules.items():
        if child is not None:
            yield from _state_of(child, f"{path}{name}.")


def recall(trace: Trace, call: LeafCall) -> Any:
    """Return what a call gives, noting its effects; ``NOTHING`` where no such call has run."""
    outcome = _OUTCOMES.get(call.key)
    if outcome is None:
        return NOTHING
    named = call.named
    result = map_structure(outcome.result, lambda part: _make(part, named))
    returned = _new_tensors(result, named)
    for tensor in returned.values():
        adopt_result(trace, tensor)
    named = named | returned
    writes = {storage_of(named[name]) for name in outcome.writes}
    effects = trace.memory.effects
    effects.add(Effects({storage_of(named[name]) for name in outcome.reads}, writes))
    trace.memory.written |= writes
    if outcome.draws:
        effects.note_draw()
    for name in outcome.writes:
        increment_version(named[name])
    note_versions(trace, list(named.values()), writes)
    return result


def _new_tensors(result: Any, named: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name the tensors of a result that were not given."""
    given = {id(tensor) for tensor in named.values()}
    returned = (part for part in leaves_of(result) if isinstance(part, torch.Tensor) and id(part) not in given)
    return {f"result {number}": tensor for number, tensor in enumerate(returned)}


def _make(part: Any, named: dict[str, torch.Tensor]) -> Any:
    if isinstance(part, TensorMeta):
        return torch.empty_strided(part.shape, part.stride, dtype=part.dtype, device="meta")
    return named[part.name] if isinstance(part, _Given) else part


def remember(trace: Trace, call: LeafCall, result: Any) -> None:
    """Keep what a call gave and did, unless it gave another tensor over memory that was there."""
    named, effects = call.named, trace.memory.effects
    given = {storage_of(tensor) for tensor in named.values()}
    by_identity = {id(tensor): name for name, tensor in reversed(named.items())}
    returned = _new_tensors(map_structure(result, lambda part: _fake(trace, part)), named)
    if not all(type(tensor) is torch.Tensor and tensor.is_meta for tensor in returned.values()):
        return
    if any(storage_of(tensor) in given for tensor in returned.values()):
        return
    by_memory = {storage_of(tensor): name for name, tensor in reversed((named | returned).items())}

    def form(part: Any) -> Any:
        if not isinstance(part, torch.Tensor):
            return part
        name = by_identity.get(id(fake_of(trace, part)))
        return measure(part) if name is None else _Given(name)

    reads, writes = (_named(parts, by_memory) for parts in (effects.reads, effects.writes))
    keep_result(_OUTCOMES, call.key, _Outcome(map_structure(result, form), reads, writes, effects.draws))


def _fake(trace: Trace, part: Any) -> Any:
    return fake_of(trace, part) if isinstance(part, torch.Tensor) else part


def _named(memory: set[Storage], names: dict[Storage, str]) -> tuple[str, ...]:
    """Name memory; what has no name the call has made itself."""
    return tuple(sorted(names[part] for part in memory if part in names))
