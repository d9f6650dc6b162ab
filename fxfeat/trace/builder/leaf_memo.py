"""Results of torch's own leaf modules on meta tensors, remembered for the next module of the same configuration.

One plain run of a convolutional network on meta tensors takes several times as long as torchvision's extractor, nearly
all of it Python decompositions of batch norms and activations, which come out the same each time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import is_grad_enabled, is_inference_mode_enabled, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd.graph import increment_version

from fxfeat.ir.node_meta import RNG, Storage, TensorMeta, measure
from fxfeat.trace.builder.fakes import adopt_result, fake_of
from fxfeat.trace.builder.measure import storage_of
from fxfeat.trace.builder.memory import note_versions
from fxfeat.trace.builder.trace import Effects, Trace
from fxfeat.trace.patches.hooks import has_hooks

_LEAVES: tuple[type[nn.Module], ...] = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.Embedding),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softmax, nn.LogSoftmax, nn.GLU),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool2d),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
)
"""Modules whose results and effects follow from their attributes and the form of their one input."""

_MOST = 4096
_BOOKKEEPING = frozenset(vars(nn.Module()))
_STATE = (nn.Parameter, torch.Tensor)
_PLAIN = (int, float, bool, str, type(None))

Key = tuple[Any, ...]


@dataclass(frozen=True)
class _Outcome:
    """What a call gave: the form of a new tensor, or None for its input; and the memory it read and wrote, by name.

    The empty name stands for the input.
    """

    result: TensorMeta | None
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    draws: bool


_OUTCOMES: OrderedDict[Key, _Outcome] = OrderedDict()


def key_of(trace: Trace, module: nn.Module, args: Any, kwargs: Any) -> Key | None:
    """Return what the result of a call follows from; None where it has to be run."""
    if trace.fake_tensors.kind != "meta" or type(module) not in _LEAVES or kwargs or len(args) != 1:
        return None
    if has_hooks(module) or is_inference_mode_enabled() or trace.settings.modes or torch._C._len_torch_dispatch_stack():
        return None
    given = args[0] if isinstance(args[0], torch.Tensor) and not is_functorch_wrapped_tensor(args[0]) else None
    if given is None or not _is_plain_tensor(given := fake_of(trace, given)):
        return None
    configuration = _configuration(module)
    if configuration is None:
        return None
    metas = tuple(measure(fake_of(trace, tensor)) for _, tensor in _state_of(module))
    state = tuple(name for name, _ in _state_of(module))
    settings = (is_grad_enabled(), torch.get_default_dtype())
    return (type(module), module.training, configuration, state, metas, measure(given), settings)


def _configuration(module: nn.Module) -> Key | None:
    """List a module's own attributes; None where one is no plain value."""
    own = tuple((name, value) for name, value in vars(module).items() if name not in _BOOKKEEPING)
    if module._modules or not all(_is_plain(value) for _, value in own):
        return None
    is_own = (type(tensor) in _STATE and not is_functorch_wrapped_tensor(tensor) for _, tensor in _state_of(module))
    return own if all(is_own) else None


def _is_plain_tensor(tensor: torch.Tensor) -> bool:
    return type(tensor) is torch.Tensor and tensor.layout is torch.strided and not tensor.requires_grad


def _is_plain(value: Any) -> bool:
    if type(value) is tuple:
        return all(map(_is_plain, value))
    return type(value) in _PLAIN


def _state_of(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for named in (module._parameters, module._buffers):
        yield from ((name, tensor) for name, tensor in named.items() if tensor is not None)


def recall(trace: Trace, key: Key, module: nn.Module, given: Any) -> torch.Tensor | None:
    """Return what a call of that key gives, noting its effects; None where no such call has run."""
    outcome = _OUTCOMES.get(key)
    if outcome is None:
        return None
    fake, effects = fake_of(trace, given), trace.memory.effects
    memory = _memory_of(trace, module, fake)
    effects.reads |= {memory[name] for name in outcome.reads}
    writes = {memory[name] for name in outcome.writes}
    effects.writes |= writes
    trace.memory.written |= writes
    if outcome.draws:
        effects.note_draw()
    for name in outcome.writes:
        increment_version(fake if not name else fake_of(trace, _tensor_at(module, name)))
    if outcome.result is None:
        note_versions(trace, [fake], writes)
        return fake
    shape, stride = outcome.result.shape, outcome.result.stride
    result = torch.empty_strided(shape, stride, dtype=outcome.result.dtype, device="meta")
    adopt_result(trace, result)
    note_versions(trace, [fake, result], writes)
    return result


def remember(trace: Trace, key: Key, module: nn.Module, given: Any, result: Any) -> None:
    """Keep what a call gave and did, unless its result is another tensor over memory that was there."""
    if type(result) is not torch.Tensor or not result.is_meta:
        return
    fake, effects = fake_of(trace, given), trace.memory.effects
    names = {storage: name for name, storage in _memory_of(trace, module, fake).items()}
    is_same = fake_of(trace, result) is fake
    if not is_same and storage_of(result) in names:
        return
    reads, writes = (tuple(sorted({names[part] for part in parts if part in names})) for parts in _parts(effects))
    _OUTCOMES[key] = _Outcome(None if is_same else measure(result), reads, writes, effects.draws)
    if len(_OUTCOMES) > _MOST:
        _OUTCOMES.popitem(last=False)


def _parts(effects: Effects) -> tuple[set[Storage], set[Storage]]:
    return effects.reads - {RNG}, effects.writes - {RNG}


def _memory_of(trace: Trace, module: nn.Module, given: torch.Tensor) -> dict[str, Storage]:
    memory = {name: storage_of(fake_of(trace, tensor)) for name, tensor in _state_of(module)}
    return {**memory, "": storage_of(given)}


def _tensor_at(module: nn.Module, name: str) -> torch.Tensor:
    return next(tensor for other, tensor in _state_of(module) if other == name)
