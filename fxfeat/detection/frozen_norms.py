"""Batch norms that neither learn nor count, with the numbers of those they stand for."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FrozenBatchNorm2d

from fxfeat.detection.copies import copy_sharing

_TABLES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


class FrozenBatchNorm(FrozenBatchNorm2d):
    """A frozen batch norm that does all that the one it stands for does in eval mode, an activation inside included.

    Example:
        >>> norm = nn.BatchNorm1d(4)
        >>> frozen = FrozenBatchNorm(norm).train()
        >>> len(list(frozen.parameters())), torch.equal(frozen(torch.ones(2, 4)), norm.eval()(torch.ones(2, 4)))
        (0, True)

    Args:
        norm: a batch norm of any class and rank; it is not changed. Weight and bias become buffers, as in
            ``FrozenBatchNorm2d``; other parameters and children are shared.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps)
        _copy_numbers(norm, self)
        self._parameters.update({k: tensor for k, tensor in norm._parameters.items() if k not in ("weight", "bias")})
        self._modules.update(norm._modules)
        counted = (*self._buffers, "num_batches_tracked")
        self._buffers.update({name: tensor for name, tensor in norm._buffers.items() if name not in counted})
        inner = copy.copy(norm)
        inner.training = False
        # Shared, not copied: what moves or replaces the tensors here does so there.
        inner.__dict__.update({table: self.__dict__[table] for table in _TABLES})
        self.__dict__["norm"] = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise with the numbers that are held."""
        return self.norm.forward(x)


def freeze_norms(model: nn.Module) -> nn.Module:
    """Copy a model with its batch norms frozen; all other parameters and buffers are shared with it.

    Example:
        >>> freeze_norms(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))[1]
        FrozenBatchNorm2d(8, eps=1e-05)

    Args:
        model: any module; it is not changed. Norms without running statistics stay: there is nothing to freeze.
    """
    norms = [norm for norm in model.modules() if isinstance(norm, _BatchNorm) and norm.running_mean is not None]
    return copy_sharing(model, {id(norm): freeze_norm(norm) for norm in norms}) if norms else model


def freeze_norm(norm: _BatchNorm) -> FrozenBatchNorm2d:
    """Make the frozen norm that stands for one batch norm."""
    if type(norm) is not nn.BatchNorm2d:
        return FrozenBatchNorm(norm)
    frozen = FrozenBatchNorm2d(norm.num_features, norm.eps)
    _copy_numbers(norm, frozen)
    return frozen


def _copy_numbers(norm: _BatchNorm, frozen: FrozenBatchNorm2d) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = getattr(norm, name)
        if value is not None:
            frozen._buffers[name] = value.detach().clone()
        else:
            frozen._buffers[name] = frozen._buffers[name].to(norm.running_mean)
