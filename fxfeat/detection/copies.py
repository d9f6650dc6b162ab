"""Copies of modules that share tensors with their originals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from fxfeat.errors import RequestError, TraceError
from fxfeat.isolation.shared_copy import share

Copied = TypeVar("Copied", bound=nn.Module)


def copy_sharing(module: Copied, replaced: Mapping[int, Any]) -> Copied:
    """Copy a module and all that is in it, except its parameters and buffers, which the copy shares.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> copied = copy_sharing(layer, {})
        >>> copied is layer, copied.weight is layer.weight
        (False, True)

    Args:
        module: the module; it is not changed.
        replaced: what the copy is to hold in place of a tensor or a module, by the ``id`` of the latter.

    Raises:
        RequestError: where the module cannot be copied.
    """
    try:
        return share(module, replaced)
    except TraceError as error:
        raise RequestError(
            f"{error} Frozen norms and levels need a copy, since the model itself is not changed. Pass "
            "freeze_norm=False and trainable_levels=None, or a model that copy.deepcopy can copy."
        ) from error


def freeze_parameters(module: Copied, names: frozenset[str]) -> Copied:
    """Copy a module with some parameters frozen: parameters of their own that share the originals' memory.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> frozen = freeze_parameters(layer, frozenset({"bias"}))
        >>> layer.bias.requires_grad, frozen.bias.requires_grad, frozen.bias.data_ptr() == layer.bias.data_ptr()
        (True, False, True)

    Args:
        module: the module; it is not changed.
        names: of the parameters, as in ``named_parameters()``.
    """
    frozen = [tensor for name, tensor in module.named_parameters() if name in names and tensor.requires_grad]
    replaced = {id(tensor): nn.Parameter(tensor.detach(), requires_grad=False) for tensor in frozen}
    return copy_sharing(module, replaced) if replaced else module
