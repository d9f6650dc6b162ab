"""The modules that an extractor runs whole, of which it registers only what the run uses.

The extractor runs the model's own module objects, with their Python, flags and hooks. It must not register them, for a
part of their parameters may be unused: those would be in ``state_dict()`` and be moved along. So it registers a tree of
stand-ins that hold the very tables of tensors which the originals hold. What replaces a tensor in one is seen by the
other, also in a copy: copying and pickling keep the identity of tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxfeat.codegen.containers import Opened, container, within
from fxfeat.ir.emission import UsedState
from fxfeat.ir.tap import TappedCall

_TABLES = ("_parameters", "_buffers", "_non_persistent_buffers_set")


@dataclass(frozen=True)
class Originals:
    """The modules that run whole, by path; not registered, for it is no module itself."""

    modules: dict[str, nn.Module]


class PartlyUsed(Opened):
    """Stands for a module of which only a part is used: it holds the module's own tables, and the children used."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__(original)
        self.__dict__["original"] = original

    def hold_tensors(self) -> None:
        """Hold the tables of the original themselves."""
        for table in _TABLES:
            self.__dict__[table] = self.__dict__["original"].__dict__[table]

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        original = self.__dict__["original"]
        if type(original)._apply is nn.Module._apply:
            return super()._apply(fn, recurse)
        # It moves what it keeps besides, as recurrent layers do.
        original._apply(fn, recurse)
        return self

    def _get_name(self) -> str:
        return f"PartOf{self._opened_class}"


def plant_tapped(extractor: nn.Module, model: nn.Module, kept: UsedState, calls: Iterable[TappedCall]) -> None:
    """Register what tapped runs use of their modules, under the paths it has in the model.

    Args:
        extractor: what to hang it on.
        model: the model.
        kept: what the extractor keeps besides.
        calls: the calls that run whole.
    """
    used: dict[str, set[str]] = {}
    for call in calls:
        used.setdefault(call.path, set()).update(call.used)
    for path, inner in used.items():
        if path in kept.modules or within(path, kept.modules):
            continue
        original = model.get_submodule(path)
        if not path:
            _plant_root(extractor, original, inner)
            continue
        owner, _, name = path.rpartition(".")
        parent = container(extractor, model, owner)
        parent._modules[name] = _part(original, "", inner, parent._modules.get(name))


def _plant_root(extractor: nn.Module, original: nn.Module, used: set[str]) -> None:
    if "" in used:
        for table in _TABLES:
            extractor.__dict__[table] = original.__dict__[table]
    _plant_children(extractor, original, "", used)


def _plant_children(owner: nn.Module, original: nn.Module, path: str, used: set[str]) -> None:
    for name, child in original._modules.items():
        inner = f"{path}.{name}" if path else name
        if child is not None and _is_used(child, inner, used):
            owner._modules[name] = _part(child, inner, used, owner._modules.get(name))


def _part(original: nn.Module, path: str, used: set[str], there: nn.Module | None) -> nn.Module:
    """Return a module where all of it is used, else what stands for it."""
    if there is original or (there is None and _is_used_whole(original, path, used)):
        return original
    part = PartlyUsed(original)
    if isinstance(there, Opened):
        part._modules.update(there._modules)
    if path in used or (there is not None and (there._parameters or there._buffers)):
        part.hold_tensors()
    _plant_children(part, original, path, used)
    return part


def _paths_below(module: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    return list(module.named_modules(prefix=path, remove_duplicate=False))


def _is_used(module: nn.Module, path: str, used: set[str]) -> bool:
    return any(inner in used for inner, _ in _paths_below(module, path))


def _is_used_whole(module: nn.Module, path: str, used: set[str]) -> bool:
    return all(
        inner in used or not _holds_tensors(module_inside) for inner, module_inside in _paths_below(module, path)
    )


def _holds_tensors(module: nn.Module) -> bool:
    return bool(module._parameters or module._buffers)
