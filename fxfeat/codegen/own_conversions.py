"""Opened classes that see to the dtypes of their tensors, which what stands for them would lose."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import nn

from fxfeat.codegen.containers import Opened, within
from fxfeat.codegen.tapped_modules import PartlyUsed
from fxfeat.errors import RequestError
from fxfeat.ir.tree import parts_of

_CONVERSIONS: tuple[tuple[torch.dtype, Callable[[nn.Module], object]], ...] = (
    (torch.float16, lambda model: model.half()),
    (torch.bfloat16, lambda model: model.bfloat16()),
    (torch.float64, lambda model: model.double()),
    (torch.float32, lambda model: model.float()),
    (torch.bfloat16, lambda model: model.to(torch.bfloat16)),
    (torch.float16, lambda model: model.type(torch.float16)),
)
_NAMES = ("half", "bfloat16", "double", "float", "to", "type")


def find_own_conversions(model: nn.Module, extractor: nn.Module) -> str:
    """Return the class of an opened module that converts its tensors in a way of its own, if there is one."""
    for path, part in extractor.named_modules(remove_duplicate=False):
        stands_in = path == "" or (isinstance(part, Opened) and not isinstance(part, PartlyUsed))
        original = model.get_submodule(path) if stands_in else None
        if original is not None and _overrides(original, is_root=not path) and not _converts_all(original):
            return type(original).__name__
    return ""


def refuse_own_conversions(module: nn.Module, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Raise where a change of dtype would pass by what a class does of its own.

    Args:
        module: what is to be changed.
        name: the class, or nothing.
        change: what is to be done to each tensor.

    Raises:
        RequestError: naming the class.
    """
    if name and any(change(probe).dtype != probe.dtype for probe in _probes_of(module)):
        raise RequestError(
            f"{name} converts its tensors to other dtypes in a way of its own, and its code is written out, so that "
            "this would not run. Convert the model, and create the extractor again."
        )


def _probes_of(module: nn.Module) -> Iterator[torch.Tensor]:
    kinds = {(tensor.dtype, tensor.device) for tensor in (*module.parameters(), *module.buffers())}
    return (torch.empty(0, dtype=dtype, device=device) for dtype, device in kinds)


def _overrides(module: nn.Module, is_root: bool) -> bool:
    """Say whether a class has its own way; torch calls ``_apply`` of children, and the others of no child."""
    names = ("_apply", *_NAMES) if is_root else ("_apply",)
    own, plain = module.__dict__, nn.Module
    return any(name in own or getattr(type(module), name) is not getattr(plain, name) for name in names)


def _converts_all(module: nn.Module) -> bool:
    """Try on a copy without data whether each conversion does what torch's own would do."""
    try:
        trial = _copy_without_data(module)
        return all(_converts(trial, dtype, convert) for dtype, convert in _CONVERSIONS)
    except Exception:
        return False


def _converts(trial: nn.Module, dtype: torch.dtype, convert: Callable[[nn.Module], object]) -> bool:
    floats = [name for name, tensor in _registered(trial) if tensor.is_floating_point()]
    besides = [tensor.dtype for tensor in _not_registered(trial)]
    convert(trial)
    after = dict(_registered(trial))
    return all(after[name].dtype == dtype for name in floats) and besides == [
        tensor.dtype for tensor in _not_registered(trial)
    ]


def _registered(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """List the tensors of a module, without those of modules in it that have their own way, whole or looked at too."""
    own = {path for path, part in module.named_modules() if path and _overrides(part, is_root=False)}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if not within(name, own):
            yield name, tensor


def _not_registered(module: nn.Module) -> list[torch.Tensor]:
    tables = ("_parameters", "_buffers", "_modules")
    return parts_of({name: value for name, value in vars(module).items() if name not in tables}, torch.Tensor)


def _copy_without_data(module: nn.Module) -> nn.Module:
    memo: dict[int, object] = {}
    for part in module.modules():
        memo.update((id(tensor), _bare(tensor)) for tensor in parts_of(vars(part), torch.Tensor))
    return copy.deepcopy(module, memo)


def _bare(tensor: torch.Tensor) -> torch.Tensor:
    bare = torch.empty_like(tensor, device="meta", requires_grad=False)
    return nn.Parameter(bare, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else bare
