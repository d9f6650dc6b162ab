"""The modules that an extractor keeps: whole ones as they are, opened ones as containers of what is left."""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterable
from typing import Any

import torch
from torch import nn

from fxfeat.codegen.globals import is_identifier
from fxfeat.codegen.own_loading import explain_loading, note_loading
from fxfeat.errors import GuardError
from fxfeat.ir.emission import UsedState
from fxfeat.ir.value_replacement import Replacement


class Opened(nn.Module):
    """What is left of a module whose code was written out: the children and tensors that the code still uses."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self._opened_class = type(original).__name__
        self.training = original.training
        note_loading(original, self)

    def __setattr__(self, name: str, value: Any) -> None:
        refuse_written_out(self, name)
        super().__setattr__(name, value)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *others: Any) -> None:
        errors = others[-1]
        errors += explain_loading(self, state_dict, prefix, local_metadata)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)

    def __getitem__(self, index: int) -> nn.Module:
        return getattr(self, str(index))

    def _get_name(self) -> str:
        return f"Opened{self._opened_class}"


def spell_module(path: str, module: nn.Module) -> str:
    """Name a module of the model in a message.

    >>> spell_module("head", nn.Linear(1, 1)), spell_module("", nn.Linear(1, 1))
    ("'head' (Linear)", 'the Linear')
    """
    return f"{path!r} ({module._get_name()})" if path else f"the {module._get_name()}"


def refuse_written_out(module: nn.Module, name: str) -> None:
    """Raise where an attribute is written out, so that setting it would change nothing.

    Raises:
        GuardError: naming the attribute.
    """
    if name in module.__dict__.get("_written_out", ()):
        raise GuardError(
            f"{name!r} was written into the extractor's code as it was, so setting it here would change nothing. Set "
            "it on the model, and create the extractor again."
        )


def plant(extractor: nn.Module, model: nn.Module, used_state: UsedState, constants: dict[str, torch.Tensor]) -> None:
    """Hang what is used of ``model`` on ``extractor``, under the same paths."""
    order = [path for path, _ in model.named_modules(remove_duplicate=False) if path in used_state.modules]
    for path in order:
        if not within(path, used_state.modules):
            owner, _, name = path.rpartition(".")
            # Into the table itself: add_module refuses a name that the extractor has a property of.
            container(extractor, model, owner)._modules[name] = model.get_submodule(path)
    for path in sorted(used_state.containers - used_state.modules):
        if not within(path, used_state.modules):
            container(extractor, model, path)
    for path in sorted(used_state.tensors):
        if path in constants:
            object.__setattr__(extractor, path, constants[path])
        elif not within(path, used_state.modules):
            owner, _, name = path.rpartition(".")
            _share(model.get_submodule(owner), container(extractor, model, owner), name)


def find_part(root: nn.Module | None, path: str) -> nn.Module | None:
    """Return the module at a path; None where there is none."""
    for name in path.split(".") if path else ():
        # The table of a scripted module has no `get`.
        root = root._modules[name] if root is not None and name in root._modules else None
    return root


def within(path: str, modules: Container[str]) -> bool:
    """Say whether a path lies strictly inside one of some modules."""
    while "." in path:
        path = path.rpartition(".")[0]
        if path in modules:
            return True
    return False


def container(extractor: nn.Module, model: nn.Module, path: str) -> nn.Module:
    """Return what an extractor has in place of the module at a path, with what is around it."""
    owner, original = extractor, model
    for part in path.split(".") if path else ():
        original = original.get_submodule(part)
        if part not in owner._modules:
            owner._modules[part] = Opened(original)
        child = owner._modules[part]
        assert child is not None
        owner = child
    return owner


def _share(source: nn.Module, target: nn.Module, name: str) -> None:
    table = _table_of(source, name)
    getattr(target, table)[name] = getattr(source, table)[name]
    if name in source._non_persistent_buffers_set:
        target._non_persistent_buffers_set.add(name)


def _table_of(module: nn.Module, name: str) -> str:
    """Say in which of a module's tables a name is held."""
    for table in ("_modules", "_parameters", "_buffers"):
        if name in getattr(module, table):
            return table
    return "__dict__"


def all_state(model: nn.Module) -> UsedState:
    """List all that a model has, for an extractor that may come to need any of it."""
    every = dict(model.named_modules(remove_duplicate=False))
    leaves = {path for path, module in every.items() if path and not any(module.children())}
    homes = {path: module for path, module in every.items() if path not in leaves}
    names = {(path, name) for path, module in homes.items() for name in (*module._parameters, *module._buffers)}
    return UsedState(frozenset(leaves), frozenset(f"{path}.{name}".lstrip(".") for path, name in names))


class _Replacements(nn.Module):
    """The modules that values go through, by number."""

    def __getitem__(self, index: int) -> nn.Module:
        return getattr(self, str(index))


def plant_replacements(extractor: nn.Module, replacements: Iterable[Replacement]) -> None:
    """Hang the modules that values go through on an extractor."""
    for replacement in replacements:
        if isinstance(replacement.function, nn.Module):
            home, _, name = replacement.path.rpartition(".")
            if home not in extractor._modules:
                extractor._modules[home] = _Replacements()
            getattr(extractor, home)._modules[name] = replacement.function


def reacher(
    model: nn.Module,
    used_state: UsedState,
    reserved: Container[str],
    receiver: str,
    replacements: Container[str] = (),
) -> Callable[[str], str]:
    """Return how emitted code spells the path to a submodule or tensor.

    Args:
        model: the model.
        used_state: what the extractor keeps of it.
        reserved: attributes that an extractor has of its own.
        receiver: what the first parameter of the method is called.
        replacements: where an extractor has modules that are none of the model's.
    """

    @functools.cache
    def reach(path: str) -> str:
        if not path:
            return receiver
        if path in replacements:
            home, _, index = path.rpartition(".")
            return f"{receiver}.{home}[{index}]"
        spelled, walked = receiver, ""
        for part in path.split("."):
            if not walked and part in reserved:
                spelled, walked = f"{receiver}.{_table_of(model, part)}[{part!r}]", part
                continue
            spelled = step_to(spelled, part, _is_indexed(model, walked, part, used_state))
            walked = f"{walked}.{part}" if walked else part
        return spelled

    return reach


def step_to(spelled: str, part: str, indexed: bool) -> str:
    """Spell the way from a module to a part of it.

    >>> step_to("self", "conv", False), step_to("self.layer", "0", True), step_to("self", "0", False)
    ('self.conv', 'self.layer[0]', "getattr(self, '0')")
    """
    if is_identifier(part):
        return f"{spelled}.{part}"
    return f"{spelled}[{part}]" if indexed else f"getattr({spelled}, {part!r})"


def _is_indexed(model: nn.Module, path: str, child: str, used_state: UsedState) -> bool:
    """Say whether the module at ``path`` answers ``[0]`` with its child ``"0"``.

    A sequence counts its children, whatever they are called.
    """
    if not path or not child.isdecimal() or str(int(child)) != child:
        return False
    if path not in used_state.modules and not within(path, used_state.modules):
        return True
    module = model.get_submodule(path)
    if getattr(type(module), "__getitem__", None) not in (nn.Sequential.__getitem__, nn.ModuleList.__getitem__):
        return False
    return list(module._modules).index(child) == int(child)
