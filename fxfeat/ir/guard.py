"""What is checked when an extractor runs, and what cannot be written out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from fxfeat.ir.node_meta import Storage
from fxfeat.ir.tree import Steps

OF_CALL = "the call"
"""Where it is decided what kinds the inputs are, and whether gradients are on: outside of the model's code."""


@dataclass(frozen=True)
class Guard:
    """A decision that the model's Python took on a size or a value.

    ``hooks_settle`` says that it falls the recorded way wherever a hook looks at a module inside, ``asserts`` that the
    other way leads to an error.
    """

    node: fx.Node
    expected: Any
    where: str
    source: str
    module_call: int = 0
    position: int = 0
    hooks_settle: bool = False
    asserts: bool = False


@dataclass(frozen=True)
class Answer:
    """Something other than a tensor that code in a module call was told by torch: a size, a length, a number."""

    module_call: int
    position: int


@dataclass(frozen=True)
class Unsupported:
    """Why the code of a module call cannot be written out from some position on.

    ``memory`` is the model's own memory that is concerned, which the next call reads too. ``hooks_settle`` says that it
    can be where a hook looks at a module inside, ``acts_on`` is what it does something to
    that shows when gradients are computed.
    """

    reason: str
    module_call: int
    position: int
    memory: frozenset[Storage] = frozenset()
    hooks_settle: bool = False
    acts_on: fx.Node | None = None


@dataclass(frozen=True)
class AttributeWrite:
    """Something that code in a module call changed about a module of the model, other than its tensors' values.

    ``is_setting`` says that what it set is a number, a text, None or a tuple, and no state that grows, as a cache does.
    """

    path: str
    name: str
    module_call: int
    position: int
    where: str
    is_setting: bool = False


def spell_attribute(path: str, name: str) -> str:
    """Spell an attribute of a module as it is reached from the model.

    >>> spell_attribute("head", "scale"), spell_attribute("", "scale")
    ('head.scale', 'scale')
    """
    return f"{path}.{name}" if path else name


PRE_HOOKS, IN_PLACE = "_forward_pre_hooks", "inplace"
"""Names of what may have a module write to what it is given."""


@dataclass(frozen=True)
class Reading:
    """An attribute of a module that code reads; ``words`` are the names that the code takes further of an object."""

    path: str
    name: str
    words: frozenset[str] = frozenset()


@dataclass(frozen=True)
class AttributeRead:
    """What code in a module call read of a module, and when it first did."""

    reading: Reading
    module_call: int
    position: int


@dataclass(frozen=True)
class InputGuard:
    """A size that an input must have: of the tensor at ``steps`` from the argument ``parameter``.

    Without a dimension it is what the tensor must have as ``attribute``. ``runs`` says whether the model was seen to
    run with others.
    """

    parameter: str
    steps: Steps
    dimension: int | None
    size: Any
    attribute: str = "dtype"
    runs: bool = True
