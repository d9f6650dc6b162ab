"""Tensors to run a model on: meta tensors that hold no data, fake ones that know their device, or real copies.

Meta is the fastest and enough for nearly every model. Fake helps where code asks about devices. Real is for models
whose Python reads values. ``own_names`` are the attributes that torch itself puts on them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fxfeat.ir.recording import Kind

Recast = dict[torch.dtype, torch.dtype]
"""Dtypes to give fake tensors in place of their originals'."""


class MetaTensors:
    """Tensors without data; devices are looked up on the originals instead."""

    kind: Kind = "meta"
    own_names: frozenset[str] = frozenset()

    def __init__(self, recast: Recast | None = None) -> None:
        self._recast = recast or {}

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """Make a fake tensor for a real tensor."""
        dtype = self._recast.get(tensor.dtype, tensor.dtype)
        if tensor.is_nested or tensor.layout != torch.strided:
            return tensor.detach().to("meta", dtype)
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype, device="meta")

    def alias(self, tensor: torch.Tensor) -> torch.Tensor:
        """Make another tensor object over the same memory."""
        return tensor.detach()

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a torch function with every device in its arguments replaced by ``meta``."""
        name = getattr(function, "__name__", "")
        if name in ("cpu", "cuda") and isinstance(args[0], torch.Tensor):
            return self.alias(args[0])
        if name == "to":
            args = tuple("meta" if isinstance(value, str) else value for value in args)
        args = tuple(_without_device(value) for value in args)
        kwargs = {key: "meta" if _names_device(key, value) else _without_device(value) for key, value in kwargs.items()}
        if any(isinstance(value, torch.Tensor) for value in args):
            return function(*args, **kwargs)
        with torch.device("meta"):
            return function(*args, **kwargs)


def _without_device(value: Any) -> Any:
    return torch.device("meta") if isinstance(value, torch.device) else value


def _names_device(key: str, value: Any) -> bool:
    return key == "device" and value is not None


class FakeModeTensors:
    """Tensors without data that know which device they would be on."""

    kind: Kind = "fake"

    def __init__(self, recast: Recast | None = None) -> None:
        self._recast = recast or {}
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        with self._mode:
            self.own_names = frozenset((*vars(torch.empty(0)), "_is_param"))

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """Make a fake tensor for a real tensor."""
        with self._mode:
            dtype = self._recast.get(tensor.dtype, tensor.dtype)
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype, device=tensor.device)

    def alias(self, tensor: torch.Tensor) -> torch.Tensor:
        """Make another tensor object over the same memory."""
        return tensor.detach()

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a torch function."""
        with self._mode:
            return function(*args, **kwargs)


class RealTensors:
    """Copies of the real tensors, for models whose Python reads values."""

    kind: Kind = "real"
    own_names: frozenset[str] = frozenset()

    def __init__(self, recast: Recast | None = None) -> None:
        self._recast = recast or {}

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """Make a fake tensor for a real tensor."""
        return tensor.detach().clone().to(self._recast.get(tensor.dtype, tensor.dtype))

    def alias(self, tensor: torch.Tensor) -> torch.Tensor:
        """Make another tensor object over the same memory."""
        return tensor.detach()

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a torch function."""
        return function(*args, **kwargs)


class Originals:
    """The tensors themselves, for watching an eager run."""

    kind: Kind = "real"
    own_names: frozenset[str] = frozenset()

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensor itself."""
        return tensor

    def alias(self, tensor: torch.Tensor) -> torch.Tensor:
        """Make another tensor object over the same memory, with the same gradient history."""
        # A view made without gradients could not be written to with them, as the tensor itself can.
        with torch.enable_grad():
            return tensor.view(tensor.shape)

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a torch function."""
        return function(*args, **kwargs)


FakeTensors = MetaTensors | FakeModeTensors | RealTensors | Originals


def fake_tensors(kind: Kind, recast: Recast | None = None) -> FakeTensors:
    """Return the maker of fake tensors of one kind."""
    makers: dict[Kind, Callable[[Recast | None], FakeTensors]]
    makers = {"meta": MetaTensors, "fake": FakeModeTensors, "real": RealTensors}
    return makers[kind](recast)
