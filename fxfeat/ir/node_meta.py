"""What is known of one node besides its fx fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxfeat.ir.tree import parts_of

Storage = object
"""Identity of a piece of memory. Two tensors that share memory share it; ``RNG`` stands for the random state."""


RNG: Storage = "rng"


DRAWN = "random numbers are drawn from Python or NumPy"


CallPath = tuple[int, ...]
"""The number of a call among all that the module around it does, after that module's own call path.

Unlike a position, it stays the same where a module before it runs more calls or fewer on another input.
"""


@dataclass(frozen=True)
class TensorMeta:
    """Shape, dtype and strides that a tensor had when it was produced."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Context:
    """A region of code that changes how calls inside it run, such as ``torch.autocast("cpu")``."""

    factory: Any
    arguments: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Look:
    """A hook that only looks on: what it is called in messages, and whether it did nothing while recording."""

    hook: str
    idle: bool


@dataclass(frozen=True)
class NodeMeta:
    """What is known of one node besides its fx fields.

    ``position`` is the node's index in the recorded graph, ``module_call`` the index of the innermost module call
    around it, ``value`` what it gave, with ``TensorMeta`` for tensors. ``aliases`` is the memory that these look at,
    ``reads`` and ``writes`` the memory that running the node reads and writes; ``may_write`` is the part of ``writes``
    that is not sure. ``same_as`` is an earlier node that gave the very same tensor. ``constant`` says that the
    node depends on no input and no parameter, ``passed`` that a module returned what it was given, ``counted`` that the
    node may have a name of its own, ``unwritable`` why it cannot be written as code, ``container`` that it is an opened
    module. ``occurrence`` is the name of the torch function that was called, and the number of calls of that name
    before it in the same code of the same module call. ``mutates_python`` marks a call that changes what Python holds.
    ``in_training`` is the memory that a call recorded in eval mode would write to besides in train mode.
    """

    position: int
    module_call: int
    value: Any = None
    reads: frozenset[Storage] = frozenset()
    writes: frozenset[Storage] = frozenset()
    aliases: frozenset[Storage] = frozenset()
    draws: bool = False
    contexts: tuple[Context, ...] = ()
    same_as: fx.Node | None = None
    constant: bool = False
    passed: bool = False
    counted: bool = True
    unwritable: str | None = None
    look: Look | None = None
    container: bool = False
    call_path: CallPath = ()
    may_write: frozenset[Storage] = frozenset()
    occurrence: tuple[str, int] | None = None
    mutates_python: bool = False
    in_training: frozenset[Storage] = frozenset()


def same(value: Any) -> Any:
    """Stand for a value that a module returned as it was given; never left in an emitted graph."""
    return value


def meta_of(node: fx.Node) -> NodeMeta:
    """Return what the recorder knows of ``node``."""
    return node.meta["fxfeat"]


def amend(node: fx.Node, **changes: Any) -> None:
    """Replace some of what is known of a node."""
    # dataclasses.replace takes ten times as long, and each recorded node is amended twice.
    other = object.__new__(NodeMeta)
    other.__dict__.update(meta_of(node).__dict__, **changes)
    node.meta["fxfeat"] = other


def measure(tensor: torch.Tensor) -> TensorMeta:
    """Note the shape, dtype and strides of ``tensor``; an unstrided one has no strides."""
    strided = tensor.layout == torch.strided and not tensor.is_nested
    return TensorMeta(tuple(tensor.shape), tensor.dtype, tuple(tensor.stride()) if strided else ())


MODEL_DEVICE = "the model's device"
"""Stands for the device type that the first input is on when the extractor runs."""


def holds_tensor(value: Any) -> bool:
    """Say whether what is known of a value describes at least one tensor."""
    return bool(parts_of(value, TensorMeta))
