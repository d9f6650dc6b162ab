"""Walk Python values down to the tensors they hold, remembering how each was reached."""

from __future__ import annotations

import copy
import dataclasses
import types
from collections.abc import Iterator, Mapping
from typing import Any

import torch

Step = tuple[str, Any]
"""``("item", key)`` for ``value[key]`` or ``("attr", name)`` for ``value.name``."""

Steps = tuple[Step, ...]

DEEPEST = 8
_CLOSED_TYPES = (str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device, torch.nn.Module)


def is_named_tuple(value: object) -> bool:
    """Say whether ``value`` is a tuple with named fields.

    >>> from collections import namedtuple
    >>> is_named_tuple(namedtuple("P", "x y")(1, 2)), is_named_tuple((1, 2))
    (True, False)
    """
    return isinstance(value, tuple) and hasattr(value, "_fields")


def children(value: object) -> list[tuple[Step, Any]]:
    """List what ``value`` holds directly, each with the step that leads to it.

    >>> children({"a": 1, "b": (2,)})
    [(('item', 'a'), 1), (('item', 'b'), (2,))]
    """
    if isinstance(value, (torch.Tensor, *_CLOSED_TYPES)):
        return []
    if isinstance(value, Mapping):
        return [(("item", key), held) for key, held in value.items()]
    if isinstance(value, (tuple, list)):
        # tuple.__iter__ and list.__iter__, because a recorded tuple writes down each element it hands out.
        plain = tuple.__iter__(value) if isinstance(value, tuple) else list.__iter__(value)
        return [(("item", index), held) for index, held in enumerate(plain)]
    return [(("attr", name), held) for name, held in _attributes(value)]


def replace_children(value: Any, changed: Mapping[Step, Any]) -> Any:
    """Make another container with some of what it holds directly replaced, by the steps that lead there.

    >>> replace_children((1, 2), {("item", 0): 3})
    (3, 2)
    """
    if not changed:
        return value
    if isinstance(value, tuple):
        held = [changed.get(step, old) for step, old in children(value)]
        return type(value)(*held) if is_named_tuple(value) else type(value)(held)
    made = copy.copy(value)
    for (kind, key), new in changed.items():
        # Outputs of transformers are dicts with attributes, and keep both alike when an item is set.
        if kind == "item":
            made[key] = new
        else:
            object.__setattr__(made, key, new)
    return made


def _attributes(value: object) -> list[tuple[str, Any]]:
    if isinstance(value, (type, types.FunctionType, types.ModuleType, types.MethodType)):
        return []
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value)]
    return list(getattr(value, "__dict__", {}).items())


def walk(value: object, steps: Steps = ()) -> Iterator[tuple[Steps, Any]]:
    """Yield ``value`` and everything it holds, outermost first, with the steps that lead there.

    >>> [steps for steps, held in walk((1, [2])) if isinstance(held, int)]
    [(('item', 0),), (('item', 1), ('item', 0))]
    """
    yield from _walk(value, steps, frozenset())


def _walk(value: object, steps: Steps, above: frozenset[int]) -> Iterator[tuple[Steps, Any]]:
    yield steps, value
    if id(value) in above or len(steps) >= DEEPEST:
        return
    for step, held in children(value):
        yield from _walk(held, (*steps, step), above | {id(value)})


def tensors(value: object) -> Iterator[tuple[Steps, torch.Tensor]]:
    """Yield each tensor that ``value`` holds with the steps that lead to it.

    >>> [steps for steps, _ in tensors({"k": torch.zeros(1)})]
    [(('item', 'k'),)]
    """
    return ((steps, held) for steps, held in walk(value) if isinstance(held, torch.Tensor))


def copy_tensors(value: Any, made: dict[int, torch.Tensor] | None = None) -> Any:
    """Clone the tensors of a value, one that comes twice once, leaving other containers than the usual as they are.

    >>> copy_tensors((torch.zeros(1), 2))
    (tensor([0.]), 2)
    """
    made = {} if made is None else made
    if isinstance(value, torch.Tensor):
        if id(value) not in made:
            made[id(value)] = value.detach().clone()
        return made[id(value)]
    if is_named_tuple(value):
        return type(value)(*(copy_tensors(held, made) for held in value))
    if isinstance(value, tuple):
        return tuple(copy_tensors(held, made) for held in tuple.__iter__(value))
    if type(value) is list:
        return [copy_tensors(held, made) for held in value]
    if type(value) is dict:
        return {key: copy_tensors(held, made) for key, held in value.items()}
    shallow = copy.copy(value)
    for (kind, key), held in children(shallow):
        if isinstance(held, torch.Tensor) and kind == "attr":
            object.__setattr__(shallow, key, copy_tensors(held, made))
    return shallow


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
