"""Tie dtypes that the model read from a tensor to that tensor.

``x.to(y.dtype)`` and ``x.to(torch.float32)`` look alike in a recording, since a dtype is one object wherever it came
from. A second recording of the same model in another dtype tells them apart.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from fxfeat.errors import TraceError
from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.recording import Recording

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
    return any(_dtypes_in((node.args, node.kwargs)) for node in nodes)


def _dtypes_in(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_dtypes_in(held) for held in value)
    if isinstance(value, dict):
        return any(_dtypes_in(held) for held in value.values())
    return isinstance(value, torch.dtype) and value.is_floating_point


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
    for node, twin in zip(left, right, strict=True):
        before = [pair for pair in reads if meta_of(pair[0][0]).position < meta_of(node).position]
        known = {(a[1], b[1]): a[0] for a, b in before}
        theirs = {(b[1], a[1]): b[0] for a, b in before}
        args, kwargs = _tied(twin.args, node.args, theirs), _tied(twin.kwargs, node.kwargs, theirs)
        node.args, node.kwargs = _tied(node.args, twin.args, known), _tied(node.kwargs, twin.kwargs, known)
        twin.args, twin.kwargs = args, kwargs
    return True


def _tied(value: Any, twin: Any, known: dict[tuple[torch.dtype, torch.dtype], fx.Node]) -> Any:
    if isinstance(value, torch.dtype) and isinstance(twin, torch.dtype):
        return known.get((value, twin), value) if value != twin else value
    if isinstance(value, tuple) and isinstance(twin, tuple) and len(value) == len(twin):
        return tuple(_tied(a, b, known) for a, b in zip(value, twin, strict=True))
    if isinstance(value, list) and isinstance(twin, list) and len(value) == len(twin):
        return [_tied(a, b, known) for a, b in zip(value, twin, strict=True)]
    if isinstance(value, dict) and isinstance(twin, dict):
        return {key: _tied(held, twin.get(key), known) for key, held in value.items()}
    return value
