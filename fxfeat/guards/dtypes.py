"""Tie dtypes that the model read from a tensor to that tensor.

``x.to(y.dtype)`` and ``x.to(torch.float32)`` look alike in a recording, since a dtype is one object wherever it came
from. Recordings of the same model in other dtypes tell them apart: a dtype is read from what was told the same in each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import fx

from fxfeat.ir.emission import Emission
from fxfeat.ir.example import Example
from fxfeat.ir.guard import Guard
from fxfeat.ir.node_meta import meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import is_structure, parts_of, replace_at, tensors, walk

Recast = dict[torch.dtype, torch.dtype]
Told = tuple[Any, ...]
"""What each of several recordings was told at the same place."""

Floats = Literal["any", "alike", "fixed"]
"""Code is good for inputs of any floating dtype, for any that inputs and weights share, or for the example's alone."""

RECASTS: tuple[Recast, ...] = (
    {torch.float32: torch.float64},
    {torch.float32: torch.bfloat16},
    {torch.float32: torch.float16},
    {torch.bfloat16: torch.float64, torch.float16: torch.float64},
)
"""Dtypes for the whole model, in place of others."""

OF_INPUTS: Recast = {
    torch.float32: torch.float64,
    torch.float64: torch.float32,
    torch.bfloat16: torch.float64,
    torch.float16: torch.float64,
}
"""Dtypes for the inputs alone, which tell their dtypes from those of weights."""


def has_dtypes(nodes: list[fx.Node]) -> bool:
    """Say whether any node has a floating dtype among its arguments."""
    dtypes = (dtype for node in nodes for dtype in parts_of((node.args, node.kwargs), torch.dtype))
    return any(dtype.is_floating_point for dtype in dtypes)


def read_floats(recording: Recording, emission: Emission) -> list[Guard]:
    """List where opened code was told a floating dtype.

    Args:
        recording: what was recorded.
        emission: what is emitted for it.
    """
    opened = {"", *emission.opened}
    reads = (read for read in recording.dtype_reads if read.expected.is_floating_point)
    return [read for read in reads if recording.module_calls[read.module_call].path in opened]


def have_one_float(recording: Recording, emission: Emission, example: Example) -> bool:
    """Say whether opened code was told one floating dtype only, and was told that of each input that has one.

    Args:
        recording: what was recorded.
        emission: what is emitted for it.
        example: the example it was recorded with.
    """
    reads = read_floats(recording, emission)
    sources = {read.node.all_input_nodes[0] for read in reads}
    inputs = [source for source in sources if source.op == "placeholder"]
    floats = [tensor.dtype for _, tensor in tensors((example.args, example.kwargs)) if tensor.is_floating_point()]
    return len({read.expected for read in reads} | set(floats)) == 1 and len(inputs) == len(floats)


def tie_dtypes(recording: Recording, others: Iterable[Recording]) -> None:
    """Replace dtypes that follow others by the nodes that they were read from, in a recording and in others of it.

    Args:
        recording: a recording.
        others: the same model on the same example in other dtypes; those that ran other code are left alone.
    """
    runs = [recording, *(other for other in others if run_alike(recording, other))]
    reads = deque(sorted(zip(*(run.dtype_reads for run in runs), strict=True), key=_position_of))
    readers: dict[Told, tuple[Guard, ...]] = {}
    for nodes in zip(*(run.graph.nodes for run in runs), strict=True):
        while reads and _position_of(reads[0]) < meta_of(nodes[0]).position:
            same = reads.popleft()
            readers[tuple(read.expected for read in same)] = same
        if parts_of((nodes[0].args, nodes[0].kwargs), torch.dtype):
            _tie(nodes, readers)


def run_alike(recording: Recording, other: Recording) -> bool:
    """Say whether two recordings made the same calls, and read as many dtypes."""
    targets = [[node.target for node in run.graph.nodes] for run in (recording, other)]
    return targets[0] == targets[1] and len(recording.dtype_reads) == len(other.dtype_reads)


def _position_of(reads: tuple[Guard, ...]) -> int:
    return meta_of(reads[0].node).position


def _tie(nodes: tuple[fx.Node, ...], readers: Mapping[Told, tuple[Guard, ...]]) -> None:
    """Replace each dtype that differs from one recording to another by the node that was told just these."""
    arguments: list[Any] = [(node.args, node.kwargs) for node in nodes]
    parts = [dict(walk(value, (), is_structure)) for value in arguments]
    for steps in [steps for steps, part in parts[0].items() if isinstance(part, torch.dtype)]:
        told = tuple(those.get(steps) for those in parts)
        if len(set(told)) > 1 and told in readers:
            replaced = zip(arguments, readers[told], strict=True)
            arguments = [replace_at(value, steps, read.node) for value, read in replaced]
    for node, (args, kwargs) in zip(nodes, arguments, strict=True):
        node.args, node.kwargs = args, kwargs
