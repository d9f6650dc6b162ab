"""Tensors and children of opened modules that are set anew on the model: followed, or an error that names them.

What stays whole is the model's own. What is written out has a stand-in, which holds the same tensors and children under
the same names. One that the model is given later (``m.half()``, ``m.mask = ...``) is taken over where it can be.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxfeat.codegen.containers import Opened, find_part, spell_module
from fxfeat.errors import GuardError
from fxfeat.ir.guard import Reading

_TABLES = ("_parameters", "_buffers", "_modules", "__dict__")
_LISTS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
_AGAIN = "Create the extractor again, or set it back."


@dataclass
class SharedPart:
    """A tensor or a child, by its name in an opened module and in the stand-in, and what each had there last."""

    module: weakref.ref[nn.Module]
    stand_in: weakref.ref[nn.Module]
    path: str
    table: str
    name: str
    theirs: weakref.ref[Any]
    mine: weakref.ref[Any]


@dataclass(frozen=True)
class SharedList:
    """The children of an opened list, up to the last that code uses; ``whole`` says that there were no others."""

    module: weakref.ref[nn.Module]
    path: str
    names: tuple[str, ...]
    whole: bool


@dataclass(frozen=True)
class SharedTie:
    """Where one tensor stands that code reads, of which it names but one place."""

    places: tuple[Place, ...]


@dataclass(frozen=True)
class AskedChild:
    """A child of an opened module that code asked about, and did not call."""

    place: Place
    child: weakref.ref[nn.Module]


@dataclass(frozen=True)
class Place:
    """A name in a table of a module."""

    module: weakref.ref[nn.Module]
    path: str
    table: str
    name: str


Shared = tuple[SharedPart | SharedList | SharedTie | AskedChild, ...]


def list_shared(
    extractor: nn.Module,
    model: nn.Module,
    tapped: Collection[str],
    read_tensors: Collection[str],
    readings: Iterable[Reading],
) -> Shared:
    """List what stand-ins share with the modules that they stand for, but for those that are run as they are.

    Args:
        extractor: the extractor, with all that it keeps.
        model: what it was made of.
        tapped: the paths of modules that are run as they are.
        read_tensors: the paths of tensors that code reads.
        readings: what code read of modules.
    """
    ties, asked = _list_ties(model, read_tensors), _list_asked(extractor, model, readings)
    return (*_list_shared(extractor, model, "", tapped), *_list_whole(extractor, readings), *ties, *asked)


def _list_whole(extractor: nn.Module, readings: Iterable[Reading]) -> Iterator[SharedList]:
    """List what runs whole and hands out what its last child returns, which another behind it would change."""
    for path in (reading.path for reading in readings if reading.name == "forward"):
        module = find_part(extractor, path)
        if isinstance(module, _LISTS):
            yield SharedList(weakref.ref(module), path, tuple(module._modules), whole=True)


def _list_ties(model: nn.Module, paths: Collection[str]) -> Iterator[SharedTie]:
    tensors = {id(tensor) for path in paths if (tensor := _find(model, path)) is not None}
    places: dict[int, list[Place]] = {}
    for path, module in model.named_modules() if tensors else ():
        for table in ("_parameters", "_buffers", "__dict__"):
            alike = [name for name, value in _table(module, table).items() if id(value) in tensors]
            for name in alike:
                place = Place(weakref.ref(module), path, table, name)
                places.setdefault(id(_table(module, table)[name]), []).append(place)
    return (SharedTie(tuple(one)) for one in places.values() if len(one) > 1)


def _list_asked(extractor: nn.Module, model: nn.Module, readings: Iterable[Reading]) -> Iterator[AskedChild]:
    module_at = functools.cache(model.get_submodule)
    for reading in readings:
        module = module_at(reading.path)
        child = _get(module._modules, reading.name)
        if child is not None and _find(extractor, f"{reading.path}.{reading.name}".lstrip(".")) is None:
            place = Place(weakref.ref(module), reading.path, "_modules", reading.name)
            yield AskedChild(place, weakref.ref(child))


def _find(root: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    module = find_part(root, owner)
    return None if module is None else _look_up(module, name)


def _list_shared(
    stand_in: nn.Module, module: nn.Module, path: str, tapped: Collection[str]
) -> Iterator[SharedPart | SharedList]:
    if path in tapped:
        return
    for table, name in _names_in(stand_in):
        theirs, mine = _get(_table(module, table), name), _look_up(stand_in, name)
        if theirs is None or not (theirs is mine or isinstance(mine, Opened)):
            continue
        home, stands = weakref.ref(module), weakref.ref(stand_in)
        yield SharedPart(home, stands, path, table, name, weakref.ref(theirs), weakref.ref(mine))
        if isinstance(mine, Opened):
            yield from _list_shared(mine, theirs, f"{path}.{name}" if path else name, tapped)
    if isinstance(module, _LISTS) and (used := [name for name in module._modules if name in stand_in._modules]):
        names = tuple(module._modules)
        until = names.index(used[-1]) + 1
        yield SharedList(weakref.ref(module), path, names[:until], until == len(names))


def _names_in(module: nn.Module) -> list[tuple[str, str]]:
    tensors = [("__dict__", name) for name, value in vars(module).items() if isinstance(value, torch.Tensor)]
    return [(table, name) for table in _TABLES[:3] for name in vars(module)[table]] + tensors


def follow_shared(shared: Shared) -> None:
    """Take over what an opened module was given since the last call.

    Raises:
        GuardError: where it does not fit what is written out.
    """
    for one in shared:
        if isinstance(one, SharedTie):
            _check_tie(one)
        elif isinstance(one, AskedChild):
            _check_asked(one)
        elif (module := one.module()) is not None:
            _check_list(one, module) if isinstance(one, SharedList) else _follow_part(one, module)


def _follow_part(one: SharedPart, module: nn.Module) -> None:
    theirs = _get(_table(module, one.table), one.name)
    # What is gone may have been the last to hold it.
    if theirs is None or theirs is not one.theirs():
        _follow(one, module)


def _check_tie(one: SharedTie) -> None:
    homes = [(place, module) for place in one.places if (module := place.module()) is not None]
    values = [_get(_table(module, place.table), place.name) for place, module in homes]
    other = next((index for index, value in enumerate(values) if value is not values[0]), None)
    if other is not None:
        first, second = (
            f"{place.name!r} of {spell_module(place.path, module)}" for place, module in (homes[0], homes[other])
        )
        raise GuardError(
            f"{first} and {second} were one tensor when the extractor was made, and are two now: the code that reads "
            f"it is written out by one of the names. {_AGAIN}"
        )


def _check_asked(one: AskedChild) -> None:
    module = one.place.module()
    now = None if module is None else _get(module._modules, one.place.name)
    if module is not None and now is not one.child():
        raise GuardError(
            f"{one.place.name!r} of {spell_module(one.place.path, module)} is {_describe(now)} now, another one than "
            f"when the extractor was made, and the code that asked about it is written out as it was. {_AGAIN}"
        )


def _check_list(one: SharedList, module: nn.Module) -> None:
    names = tuple(module._modules)
    if names[: len(one.names)] == one.names and (not one.whole or len(names) == len(one.names)):
        return
    raise GuardError(
        f"The children of {spell_module(one.path, module)} were {_enumerate(one.names)} when the extractor was made"
        f"{'' if one.whole else ', as far as it uses them,'} and are {_enumerate(names)} now: the code that goes "
        f"through them is written out. {_AGAIN}"
    )


def _follow(one: SharedPart, module: nn.Module) -> None:
    stand_in, theirs = one.stand_in(), _look_up(module, one.name)
    mine = None if stand_in is None else _look_up(stand_in, one.name)
    if stand_in is None or mine is None:
        return
    # Where the extractor was given another as well, or its code set one, each has its own.
    if mine is one.mine():
        if not _fits(mine, theirs):
            raise GuardError(_explain(one, module, mine, theirs))
        _put(stand_in, one.name, theirs)
        mine = theirs
    if theirs is not None:
        one.theirs, one.mine = weakref.ref(theirs), weakref.ref(mine)


def _fits(mine: Any, theirs: Any) -> bool:
    """Say whether code that was recorded with one tensor does the same with another."""
    if not isinstance(mine, torch.Tensor) or type(mine) is not type(theirs):
        return False
    alike = (mine.shape, mine.layout, mine.is_floating_point()) == (
        theirs.shape,
        theirs.layout,
        theirs.is_floating_point(),
    )
    return alike and (mine.dtype == theirs.dtype or mine.is_floating_point())


def _table(module: nn.Module, name: str) -> Any:
    return module.__dict__ if name == "__dict__" else module.__dict__[name]


def _get(table: Any, name: str) -> Any:
    # The table of a scripted module has no `get`.
    return table[name] if name in table else None  # noqa: SIM401


def _look_up(module: nn.Module, name: str) -> Any:
    tables = (module._parameters, module._buffers, module._modules, module.__dict__)
    return next((table[name] for table in tables if name in table), None)


def _put(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    table = next(table for table in (module._parameters, module._buffers, module.__dict__) if name in table)
    table[name] = tensor  # type: ignore[assignment]


def _explain(one: SharedPart, module: nn.Module, mine: Any, theirs: Any) -> str:
    now = f"another {theirs._get_name()}" if isinstance(theirs, nn.Module) else _describe(theirs)
    return (
        f"{one.name!r} of {spell_module(one.path, module)} was {_describe(mine)} when the extractor was made, which "
        f"still has it, and is {now} now: the code around it is written out. {_AGAIN}"
    )


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} {type(value).__name__} of shape {tuple(value.shape)}"
    if isinstance(value, nn.Module):
        return f"a {value._opened_class if isinstance(value, Opened) else value._get_name()}"
    return repr(value)


def _enumerate(names: Any) -> str:
    return ", ".join(map(repr, names)) or "none"
