"""Tie dtypes that the model read from a tensor to that tensor.

``x.to(y.dtype)`` and ``x.to(torch.float32)`` look alike in a recording, since a dtype is one object wherever it came
from. A second recording of the same model in another dtype tells them apart.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxfeat.errors import TraceError
from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import parts_of, replace_at, zip_parts

_RECASTS: tuple[dict[torch.dtype, torch.dtype], ...] = (
    {torch.float32: torch.float64},
    {torch.float32: torch.bfloat16},
    {torch.float32: torch.float16},
    {torch.bfloat16: torch.float64, torch.float16: torch.float64},
)


def tie_all_dtypes(
    recording: Recording,
    record_recast: Callable[[Mapping[torch.dtype, torch.dtype]], Recording],
    has_same_code: Callable[[Recording], bool],
) -> bool:
    """Tie dtypes to the tensors they were read from; say whether the code is then the same in other dtypes.

    Args:
        recording: the recording, whose nodes are changed.
        record_recast: records the same model with some dtypes in place of others.
        has_same_code: says whether the code of another recording is that of this one.
    """
    same = True
    for recast in _RECASTS:
        with contextlib.suppress(TraceError):
            other = record_recast(recast)
            tie_dtypes(recording, other)
            same = same and has_same_code(other)
    return same


def has_dtypes(nodes: list[fx.Node]) -> bool:
    """Say whether any node has a floating dtype among its arguments."""
    dtypes = (dtype for node in nodes for dtype in parts_of((node.args, node.kwargs), torch.dtype))
    return any(dtype.is_floating_point for dtype in dtypes)


def tie_dtypes(recording: Recording, other: Recording) -> bool:
    """Replace dtypes that follow the model's by the node they were read from, in both recordings.

    Args:
        recording: a recording.
        other: the same model on the same example in another dtype.

    Returns:
        Whether the two could be told apart: they ran the same code.
    """
    left, right = list(recording.graph.nodes), list(other.graph.nodes)
    if [node.target for node in left] != [node.target for node in right]:
        return False
    reads = list(zip(recording.dtype_reads, other.dtype_reads, strict=False))
    ours = [_Read(meta_of(a[0]).position, (a[1], b[1]), a[0]) for a, b in reversed(reads)]
    theirs = [_Read(meta_of(a[0]).position, (b[1], a[1]), b[0]) for a, b in reversed(reads)]
    for node, counterpart in zip(left, right, strict=True):
        position = meta_of(node).position
        before = (node.args, node.kwargs), (counterpart.args, counterpart.kwargs)
        node.args, node.kwargs = _tied(before[0], before[1], ours, position)
        counterpart.args, counterpart.kwargs = _tied(before[1], before[0], theirs, position)
    return True


@dataclass(frozen=True)
class _Read:
    """A node whose dtype was read, the two dtypes that it had in two recordings, and where that was."""

    position: int
    dtypes: tuple[torch.dtype, torch.dtype]
    node: fx.Node


def _tied(value: Any, counterpart: Any, reads: list[_Read], position: int) -> Any:
    """Replace each dtype that differs from its counterpart's by the node before that read just these two last."""
    for steps, ours, theirs in list(zip_parts(value, counterpart)):
        both_dtypes = isinstance(ours, torch.dtype) and isinstance(theirs, torch.dtype)
        if not both_dtypes or ours == theirs:
            continue
        # Looked for where dtypes differ only, since a deep model reads one in each of its layers.
        early = (read.node for read in reads if read.dtypes == (ours, theirs) and read.position < position)
        reader = next(early, None)
        value = value if reader is None else replace_at(value, steps, reader)
    return value
