"""Run a module without data, to learn shapes, the sizes it takes and the parameters that it uses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from fxfeat.ir.recording import Kind
from fxfeat.isolation.preserved import preserved
from fxfeat.pyramid import FeaturePyramid

KINDS: tuple[Kind, ...] = ("meta", "fake", "real")


@dataclass(frozen=True)
class Rehearsal:
    """What one run gave: the shapes of the maps, and for each map the names of the parameters that it depends on."""

    shapes: tuple[tuple[int, ...], ...]
    used: tuple[frozenset[str], ...] = ()


def rehearse(
    body: FeaturePyramid,
    image: torch.Tensor,
    size: tuple[int, int] | None = None,
    kinds: Sequence[Kind] = KINDS,
    training: bool = False,
    gradients: bool = False,
) -> Rehearsal:
    """Run a pyramid on the cheapest tensors that its code can work with; it comes back as it was.

    Example:
        >>> from fxfeat import features_only
        >>> conv = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1))
        >>> body = features_only(conv, example_inputs=torch.rand(1, 3, 32, 32))
        >>> rehearsal = rehearse(body, torch.rand(1, 3, 32, 32), (64, 96), gradients=True)
        >>> rehearsal.shapes, sorted(rehearsal.used[0])
        (((1, 8, 32, 48), (1, 8, 16, 24)), ['0.bias', '0.weight'])

    Args:
        body: returns a list of maps.
        image: of shape ``(N, C, H, W)``; only its shape and dtype matter.
        size: the height and width to run at; the image's own if not given.
        kinds: what tensors to try, in this order.
        training: the mode to run in.
        gradients: whether to find the parameters that each map depends on.

    Raises:
        Exception: what the last of the kinds failed with.
    """
    failure: Exception | None = None
    for kind in kinds:
        try:
            with rehearsing(body, kind, training, gradients):
                return run_rehearsed(body, image, size, kind, gradients)
        except Exception as error:
            failure = error
    assert failure is not None
    raise failure


@contextlib.contextmanager
def rehearsing(body: FeaturePyramid, kind: Kind, training: bool = False, gradients: bool = False) -> Iterator[None]:
    """Let a pyramid run on tensors of a kind for a while; it comes back as it was.

    Args:
        body: returns a list of maps.
        kind: of the tensors.
        training: the mode to run in.
        gradients: whether the parameters that a map depends on are to be found.
    """
    with preserved(body.extractor), preserved(body), _stage(body, kind, gradients):
        body.train(training)
        yield


@contextlib.contextmanager
def _stage(body: FeaturePyramid, kind: Kind, gradients: bool) -> Iterator[None]:
    """Put tensors without data in the places of a module's own; ``preserved`` puts those back."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(gradients))
        if kind != "real":
            stack.enter_context(NormsOutlined())
        if kind == "fake":
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        if kind == "meta":
            stack.enter_context(torch.device("meta"))
        stand_ins: dict[int, torch.Tensor] = {}
        for table in _tables_of(body):
            tensors = [(name, value) for name, value in table.items() if isinstance(value, torch.Tensor)]
            table.update({name: stand_ins.setdefault(id(value), _stand_in(value, kind)) for name, value in tensors})
        yield


class NormsOutlined(TorchFunctionMode):
    """Has batch norms give what has their shape, dtype and parameters: without data that takes most of the time."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func is not F.batch_norm:
            return func(*args, **given)
        result = torch.empty_like(args[0])
        learnt = (*args[3:5], given.get("weight"), given.get("bias"), args[0])
        trained = [tensor.sum() for tensor in learnt if tensor is not None and tensor.requires_grad]
        return result + sum(trained) if trained else result


def _tables_of(body: FeaturePyramid) -> Iterator[dict[str, Any]]:
    for module in (body.extractor, *body.modules()):
        yield from (module._parameters, module._buffers, module.__dict__)


def _stand_in(tensor: torch.Tensor, kind: Kind) -> torch.Tensor:
    """Make a tensor like another, a parameter of it if it is one, that may be written to."""
    copied = tensor.detach().to("meta") if kind == "meta" else tensor.detach().clone()
    if not isinstance(tensor, nn.Parameter):
        return copied
    return nn.Parameter(copied, copied.is_floating_point() or copied.is_complex())


def _make_image(body: FeaturePyramid, image: torch.Tensor, size: tuple[int, int] | None, kind: Kind) -> torch.Tensor:
    shape = (*image.shape[:2], *(size or image.shape[2:]))
    parameter = next(body.parameters(), image)
    return torch.zeros(shape, dtype=image.dtype, device="meta" if kind == "meta" else parameter.device)


def run_rehearsed(
    body: FeaturePyramid,
    image: torch.Tensor,
    size: tuple[int, int] | None = None,
    kind: Kind = "meta",
    gradients: bool = False,
) -> Rehearsal:
    """Run a pyramid within ``rehearsing``, at a size or at the image's own."""
    image = _make_image(body, image, size, kind)
    with torch.compiler.set_stance("force_eager"):
        maps: list[torch.Tensor] = body(image)
    shapes = tuple(tuple(level.shape) for level in maps)
    if not gradients:
        return Rehearsal(shapes)
    named = {name: parameter for name, parameter in body.named_parameters() if parameter.requires_grad}
    return Rehearsal(shapes, tuple(_find_used(level, named) for level in maps))


def _find_used(level: torch.Tensor, named: dict[str, Any]) -> frozenset[str]:
    if not level.requires_grad or not named:
        return frozenset()
    gradients = torch.autograd.grad(level.sum(), list(named.values()), retain_graph=True, allow_unused=True)
    return frozenset(name for name, gradient in zip(named, gradients, strict=True) if gradient is not None)
