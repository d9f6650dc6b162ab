"""The one place that knows how nested values are made of parts, and the verbs that go through them.

A part is reached by a step: an item of a tuple, a list or a mapping, an attribute of a dataclass, a slice or any other
object. Tensors, modules, nodes of a graph, functions, texts and numbers have no parts.

Most code asks one of four things: ``walk`` (everything, with the steps to it), ``parts_of`` (everything of one kind),
``map_parts`` (the same value with some parts exchanged) and ``map_structure`` (the same, as plain tuples, lists and
dicts that share nothing with what they were made from, as a graph holds its arguments).
"""

from __future__ import annotations

import copy
import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import fx
from torch.fx.immutable_collections import immutable_dict, immutable_list

Step = tuple[str, Any]
"""``("item", key)`` for ``value[key]`` or ``("attr", name)`` for ``value.name``."""

Steps = tuple[Step, ...]

Change = Callable[[Any], Any]
"""Is asked about a value before its parts; what it returns in place of the value is not looked into."""

LookInto = Callable[[Any], bool]
"""Says whether the parts of a value are wanted."""

Part = TypeVar("Part")

DEEPEST = 8
"""Objects lead to other objects on and on, so that those further down than this are not looked into."""

_CLOSED_TYPES = (str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device, torch.nn.Module, fx.Node)
_CODE = (type, types.FunctionType, types.ModuleType, types.MethodType)


@dataclass(frozen=True)
class Build:
    """A dataclass instance or a named tuple to be built again from its written-down fields."""

    factory: type
    fields: tuple[tuple[str, Any], ...]


def is_named_tuple(value: object) -> bool:
    """Say whether ``value`` is a tuple with named fields.

    >>> from collections import namedtuple
    >>> is_named_tuple(namedtuple("P", "x y")(1, 2)), is_named_tuple((1, 2))
    (True, False)
    """
    return isinstance(value, tuple) and hasattr(value, "_fields")


def is_anything(value: object) -> bool:
    """Look into every value that has parts."""
    return True


def is_structure(value: object) -> bool:
    """Look into what a graph can hold that has parts, and into no other object."""
    return isinstance(value, (tuple, list, dict, slice, Build))


def is_plain(value: object) -> bool:
    """Look into Python's own containers, and not into what is derived from them."""
    return type(value) in (tuple, list, dict)


def children(value: object) -> list[tuple[Step, Any]]:
    """List the parts of ``value``, each with the step that leads to it, but not their parts.

    >>> children({"a": 1, "b": (2,)})
    [(('item', 'a'), 1), (('item', 'b'), (2,))]
    """
    if isinstance(value, (torch.Tensor, *_CLOSED_TYPES)):
        return []
    if isinstance(value, Mapping):
        return [(("item", key), part) for key, part in value.items()]
    if isinstance(value, (tuple, list)):
        # tuple.__iter__ and list.__iter__, because a recorded tuple writes down each element it hands out.
        plain = tuple.__iter__(value) if isinstance(value, tuple) else list.__iter__(value)
        return [(("item", index), part) for index, part in enumerate(plain)]
    return [(("attr", name), part) for name, part in _attributes(value)]


def _attributes(value: object) -> list[tuple[str, Any]]:
    if isinstance(value, _CODE):
        return []
    if isinstance(value, Build):
        return list(value.fields)
    if isinstance(value, slice):
        return [("start", value.start), ("stop", value.stop), ("step", value.step)]
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value)]
    return list(getattr(value, "__dict__", {}).items())


def replace_children(value: Any, changed: Mapping[Step, Any]) -> Any:
    """Return ``value`` itself, or another of its kind with some of its parts replaced, by the steps to them.

    >>> replace_children((1, 2), {("item", 0): 3})
    (3, 2)
    """
    return _rebuilt(value, changed) if changed else value


def _rebuilt(value: Any, changed: Mapping[Step, Any]) -> Any:
    if isinstance(value, (tuple, slice, Build)):
        return _built_of(value, [changed.get(step, part) for step, part in children(value)])
    if isinstance(value, (immutable_list, immutable_dict)):
        value = list(value) if isinstance(value, list) else dict(value)  # what torch.fx made of a list or a dict
    other = copy.copy(value)
    for (kind, key), part in changed.items():
        # Outputs of transformers are dicts with attributes, and keep both alike when an item is set.
        if kind == "item":
            other[key] = part
        else:
            object.__setattr__(other, key, part)
    return other


def _built_of(value: Any, parts: list[Any]) -> Any:
    """Build one of what cannot be changed from all its parts."""
    if isinstance(value, Build):
        return Build(value.factory, tuple((name, part) for (name, _), part in zip(value.fields, parts, strict=True)))
    if isinstance(value, slice):
        return slice(*parts)
    if is_named_tuple(value):
        return type(value)(*parts)
    try:
        return type(value)(parts)
    except TypeError:  # a recorded tuple, which is tied to a node, or a shape, which holds numbers only
        return tuple(parts)


def walk(value: object, steps: Steps = (), into: LookInto = is_anything) -> Iterator[tuple[Steps, Any]]:
    """Yield ``value`` and all its parts and theirs, outermost first, with the steps that lead there.

    >>> [steps for steps, part in walk((1, [2])) if isinstance(part, int)]
    [(('item', 0),), (('item', 1), ('item', 0))]
    """
    parts: list[tuple[Steps, Any]] = []
    _walk(value, steps, into, frozenset(), parts)
    return iter(parts)


def _walk(value: object, steps: Steps, into: LookInto, above: frozenset[int], parts: list[tuple[Steps, Any]]) -> None:
    # Generators inside each other would take three times as long, and recordings come here for every call.
    parts.append((steps, value))
    if isinstance(value, (torch.Tensor, fx.Node)) or not _is_open(value, into, above):
        return
    for step, part in children(value):
        _walk(part, (*steps, step), into, above | {id(value)}, parts)


def _is_open(value: object, into: LookInto, above: frozenset[int]) -> bool:
    """Say whether to look into a value that was reached by way of those ``above``; one in a circle has had its turn."""
    return id(value) not in above and into(value) and (len(above) < DEEPEST or is_structure(value))


def tensors(value: object) -> Iterator[tuple[Steps, torch.Tensor]]:
    """Yield each tensor that ``value`` holds with the steps that lead to it.

    >>> [steps for steps, _ in tensors({"k": torch.zeros(1)})]
    [(('item', 'k'),)]
    """
    return ((steps, part) for steps, part in walk(value) if isinstance(part, torch.Tensor))


def parts_of(value: object, kind: type[Part], into: LookInto = is_structure) -> list[Part]:
    """List the parts of one kind, ``value`` itself among them.

    >>> parts_of((1, {"a": [2, "b"]}), int)
    [1, 2]
    """
    if into is is_structure:
        return [part for part in _parts_of_structure(value) if isinstance(part, kind)]
    return [part for _, part in walk(value, (), into) if isinstance(part, kind)]


def _parts_of_structure(value: object) -> list[Any]:
    """List a structure and all in it, without the steps there, which take far longer."""
    parts: list[Any] = []
    _gather(value, parts, frozenset())
    return parts


def _gather(value: Any, parts: list[Any], above: frozenset[int]) -> None:
    parts.append(value)
    if not is_structure(value) or id(value) in above:
        return
    around = above | {id(value)}
    kind = type(value)
    inner = value if kind is tuple or kind is list else value.values() if kind is dict else None
    for part in (part for _, part in children(value)) if inner is None else inner:
        if type(part) in _ATOMS:
            parts.append(part)  # most parts are: a call for each would take half of the time
        else:
            _gather(part, parts, around)


_ATOMS = frozenset((fx.Node, int, float, bool, str, type(None), torch.dtype))


def leaves_of(value: object) -> list[Any]:
    """List what a structure holds, without the structures in it.

    >>> leaves_of((1, {"a": [2, "b"]}))
    [1, 2, 'b']
    """
    return [part for part in _parts_of_structure(value) if not is_structure(part)]


def nodes_in(value: object) -> list[fx.Node]:
    """List the nodes that a structure holds.

    >>> nodes_in((1, {"a": None}))
    []
    """
    return parts_of(value, fx.Node)


def zip_parts(left: object, right: object) -> Iterator[tuple[Steps, Any, Any]]:
    """Yield the parts of two structures to which the same steps lead, with these.

    >>> [(a, b) for _, a, b in zip_parts([1, {"k": 2}], [3, {"k": 4, "l": 5}]) if isinstance(a, int)]
    [(1, 3), (2, 4)]
    """
    theirs = dict(walk(right, (), is_structure))
    return ((steps, part, theirs[steps]) for steps, part in walk(left, (), is_structure) if steps in theirs)


def map_parts(value: Any, change: Change, into: LookInto = is_anything, anew: bool = False) -> Any:
    """Exchange parts of a value, which stays of its kind.

    What holds no changed part is shared with the old value, unless all is to be made ``anew``.

    >>> map_parts({"a": (1, "b")}, lambda part: part + 1 if isinstance(part, int) else part)
    {'a': (2, 'b')}
    """
    return _map_parts(value, change, into, anew, frozenset())


def _map_parts(value: Any, change: Change, into: LookInto, anew: bool, above: frozenset[int]) -> Any:
    changed = change(value)
    if changed is not value or not _is_open(value, into, above):
        return changed
    old = children(value)
    new = {step: _map_parts(part, change, into, anew, above | {id(value)}) for step, part in old}
    if anew:
        return _rebuilt(value, new)
    return replace_children(value, {step: new[step] for step, part in old if new[step] is not part})


def map_structure(value: Any, change: Change) -> Any:
    """Make a structure anew of plain tuples, lists and dicts, with some parts exchanged.

    >>> map_structure((1, {"a": None}), lambda part: 2 if part == 1 else part)
    (2, {'a': None})
    """
    changed = change(value)
    if changed is not value or not is_structure(value):
        return changed
    parts = [map_structure(part, change) for _, part in children(value)]
    if isinstance(value, (slice, Build)):
        return _built_of(value, parts)
    if isinstance(value, dict):
        return dict(zip(value, parts, strict=True))
    return parts if isinstance(value, list) else tuple(parts)


def map_nodes(value: Any, change: Callable[[fx.Node], Any]) -> Any:
    """Replace each node that a structure holds.

    >>> map_nodes((1, {"a": None}), lambda node: 0)
    (1, {'a': None})
    """
    return map_structure(value, lambda part: change(part) if isinstance(part, fx.Node) else part)


def replace_at(value: Any, steps: Steps, part: Any) -> Any:
    """Replace the part that steps lead to.

    >>> replace_at({"a": (1, 2)}, (("item", "a"), ("item", 1)), 3)
    {'a': (1, 3)}
    """
    if not steps:
        return part
    return replace_children(value, {steps[0]: replace_at(follow(value, steps[:1]), steps[1:], part)})


def copy_tensors(value: Any) -> Any:
    """Clone the tensors of a value, one that comes twice once, in containers of their own.

    >>> copy_tensors((torch.zeros(1), 2))
    (tensor([0.]), 2)
    """
    copies: dict[int, torch.Tensor] = {}

    def clone_once(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in copies:
            copies[id(tensor)] = tensor.detach().clone()
        return copies[id(tensor)]

    def copied(part: Any) -> Any:
        if isinstance(part, torch.Tensor):
            return clone_once(part)
        if is_structure(part):
            return part
        attributes = [(step, value) for step, value in children(part) if isinstance(value, torch.Tensor)]
        return _rebuilt(part, {step: clone_once(tensor) for step, tensor in attributes})

    return map_parts(value, copied, is_structure, anew=True)


def follow(value: Any, steps: Steps) -> Any:
    """Take steps into a value.

    >>> follow({"a": (1, 2)}, (("item", "a"), ("item", 1)))
    2
    """
    for kind, key in steps:
        value = value[key] if kind == "item" else getattr(value, key)
    return value


def has(value: Any, steps: Steps) -> bool:
    """Say whether steps lead anywhere in a value.

    >>> has({"a": (1, 2)}, (("item", "a"), ("item", 2)))
    False
    """
    try:
        follow(value, steps)
    except (LookupError, TypeError, AttributeError):
        return False
    return True


def spell(steps: Steps) -> str:
    """Write steps the way a user types them.

    >>> spell((("item", 0), ("item", "k"), ("attr", "tensors")))
    "[0]['k'].tensors"
    """
    return "".join(f"[{step!r}]" if kind == "item" else f".{step}" for kind, step in steps)
