"""What objects hold inside that no ``__dict__`` shows: random generators, arrays of bytes, slots."""

from __future__ import annotations

import array
import pickle
import random
import sys
from collections.abc import Callable
from typing import Any

import torch

Access = tuple[Callable[[], Any], Callable[[Any], Any]]
"""How the state of an object is read, and how it is written."""


def access_to(value: Any) -> Access | None:
    """Return how to read and write what an object holds inside, where nothing else shows it.

    >>> generator = random.Random(0)
    >>> read, write = access_to(generator)
    >>> state, first = read(), generator.random()
    >>> write(state)
    >>> generator.random() == first
    True
    """
    if _is_of_process(value):
        return None
    if isinstance(value, random.Random):
        return value.getstate, value.setstate
    if isinstance(value, torch.Generator):
        return value.get_state, value.set_state
    if isinstance(value, (bytearray, array.array)):
        return lambda: value[:], lambda contents: value.__setitem__(slice(None), contents)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.random.RandomState):
        return value.get_state, value.set_state
    if numpy is not None and isinstance(value, numpy.random.Generator):
        bits = value.bit_generator
        return lambda: bits.state, lambda state: setattr(bits, "state", state)
    return None


def _is_of_process(value: Any) -> bool:
    """Say whether a generator is one that the whole process draws from, which is looked after elsewhere."""
    numpy = sys.modules.get("numpy")
    of_numpy = numpy.random.mtrand._rand if numpy is not None else None
    return any(value is shared for shared in (random._inst, torch.default_generator, of_numpy))


def is_other_state(left: Any, right: Any) -> bool:
    """Say whether two states that were read are not the same."""
    return pickle.dumps(left) != pickle.dumps(right)


def slots_of(value: Any) -> dict[str, Any]:
    """Return what an object holds in the slots of its class, by name.

    >>> class Point:
    ...     __slots__ = ("x", "y")
    >>> point = Point()
    >>> point.x = 1
    >>> slots_of(point)
    {'x': 1}
    """
    names = [name for kind in type(value).__mro__ for name in _slot_names(kind)]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def put_slots(value: Any, slots: dict[str, Any]) -> None:
    """Put back what an object held in its slots."""
    for name in slots_of(value).keys() - slots.keys():
        delattr(value, name)
    for name, part in slots.items():
        if getattr(value, name, None) is not part or not hasattr(value, name):
            object.__setattr__(value, name, part)


def _slot_names(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    private = f"_{kind.__name__.lstrip('_')}"
    return tuple(f"{private}{n}" if n.startswith("__") and not n.endswith("__") else n for n in names)
