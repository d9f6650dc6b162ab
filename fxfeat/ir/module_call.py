"""One call of one module, and what is written in it where a value cannot be a node."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import fx

from fxfeat.ir.node_meta import Context
from fxfeat.ir.tree import Steps, map_structure, parts_of


@dataclass(frozen=True)
class Opaque:
    """An argument that cannot be written down, and where it came from if a module call returned it."""

    type_name: str
    module_call: int | None = None
    steps: Steps = ()


@dataclass(frozen=True)
class ModuleAt:
    """A module of the model, passed as an argument."""

    path: str


@dataclass(frozen=True)
class ContainerAt:
    """What an extractor has in place of an opened module, passed to a hook."""

    path: str


@dataclass(frozen=True)
class ModuleCall:
    """One call of one module: what went in, what ran inside, what came out.

    ``module`` is the module's identity, ``start`` and ``stop`` bound the positions of its nodes, ``call`` counts its
    calls by this path before it. ``result`` is written as a graph holds it, and ``result_nodes`` are the nodes of the
    tensors and numbers in what the module really returned, by the steps to them. ``leaf`` says that the module is not
    opened, ``entered`` that it was entered all the same, and ``mutated`` that its result is an object which later code
    changes. ``after_hooks`` are the arguments as the hooks before ``forward`` left them, and the position then, if it
    has such hooks.
    ``reached`` is the path that the code took, where ``path`` is the first of several attributes of one module.
    ``leaves_behind`` says that it changed a list or dict that it was given, or put attributes on a tensor that it
    returned. ``form`` is the form of its result, and ``free`` the keys that lead to what may be any number there.
    """

    index: int
    path: str
    call: int
    parent: int | None
    start: int
    module: int
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    leaf: bool = False
    stop: int = -1
    result: Any = None
    result_nodes: tuple[tuple[Steps, fx.Node], ...] = ()
    entered: bool = False
    mutated: bool = False
    contexts: tuple[Context, ...] = ()
    reached: str = ""
    after_hooks: tuple[Any, Any, int] | None = None
    leaves_behind: bool = False
    form: Any = None
    free: tuple[tuple[Any, ...], ...] = ()


def opaque_in(value: Any) -> list[Opaque]:
    """List the parts of a structure that cannot be written down.

    >>> opaque_in([Opaque("Cache")])
    [Opaque(type_name='Cache', module_call=None, steps=())]
    """
    return parts_of(value, Opaque)


def without_opaque(value: Any) -> Any:
    """Put None where something cannot be written down."""
    return map_structure(value, lambda part: None if isinstance(part, Opaque) else part)


def hide_modules(value: Any) -> Any:
    """Put ``Opaque`` where a result holds a module: an extractor has no such module to hand out."""
    return map_structure(value, lambda part: Opaque("module") if isinstance(part, ModuleAt) else part)


def ancestors(module_calls: tuple[ModuleCall, ...], index: int) -> list[int]:
    """List the module calls around module call ``index``, innermost first, itself left out."""
    around: list[int] = []
    parent = module_calls[index].parent
    while parent is not None:
        around.append(parent)
        parent = module_calls[parent].parent
    return around
