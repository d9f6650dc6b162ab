"""How a model pools its features, and the other ways in which they can be pooled."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import networkx as nx
import torch
import torch.nn.functional as F
from torch import fx, nn

from fxfeat.ir.recording import Recording
from fxfeat.vision.data_flow import find_chain, inputs_of, keep_between
from fxfeat.vision.learnt import is_linear
from fxfeat.vision.operations import (
    JOINS,
    function_of,
    is_dropout,
    is_layout,
    is_norm,
    is_pick,
    is_pool,
    kind_of,
    module_of,
)
from fxfeat.vision.shapes import Shape, is_tensor, shape_of

KINDS = ("avg", "max", "avgmax", "catavgmax", "token")
_CLASS_TOKEN = re.compile(r"cls|class", re.IGNORECASE)
_LAYERS_OVER_CHANNELS = (nn.LayerNorm, nn.RMSNorm, nn.Linear)


@dataclass(frozen=True)
class Pooling:
    """How a model's features become one vector an image.

    Attributes:
        own: the kind, where it is one of timm's; None for any other.
        features: the shape of the features at the example's size.
        channels: their axis of channels.
        pooled: the shape of what the pooling gives.
        has_class_token: whether the first token is a class token.
        is_learnt: whether weights go into the pooling, so that no other stands in for it.
        is_last: whether nothing with weights comes between it and the classifier.
        takes_places: whether what comes behind it can be applied at each place of a map that is not pooled.
    """

    own: str | None
    features: tuple[int, ...]
    channels: int
    pooled: tuple[int, ...]
    has_class_token: bool
    is_learnt: bool
    is_last: bool
    takes_places: bool

    @property
    def is_tokens(self) -> bool:
        """Whether the features are a sequence."""
        return len(self.features) == 3 and self.channels == 2

    @property
    def multiple(self) -> int:
        """How many numbers for each channel the model's own pooling gives."""
        return max(1, max(self.pooled[1:]) // self.features[self.channels])


def find_pooled(
    recording: Recording, flow: nx.DiGraph, feature: fx.Node, source: fx.Node, positions: frozenset[fx.Node]
) -> fx.Node | None:
    """Find the first value without positions between the features and the classifier; None where there is none."""
    if feature not in positions:
        return None
    chain = find_chain(flow, inputs_of(recording), [source])
    later = chain[chain.index(feature) + 1 :] if feature in chain else []
    return next((node for node in later if is_tensor(node) and node not in positions), None)


def read_pooling(
    recording: Recording, flow: nx.DiGraph, feature: fx.Node, pooled: fx.Node, source: fx.Node, channels: int
) -> Pooling:
    """Read how a model pools.

    Args:
        recording: the model's recording.
        flow: which tensors are computed from which.
        feature: the features.
        pooled: what the pooling gives.
        source: what goes into the classifier.
        channels: the features' axis of channels.
    """
    nodes = list_between(flow, feature, pooled)
    behind = list_between(flow, pooled, source)
    own = _name_kind(recording, nodes)
    return Pooling(
        own,
        shape_of(feature),
        channels,
        shape_of(pooled),
        own == "token" or has_class_token(recording),
        any(_has_tensors(recording, node) for node in nodes),
        not any(_has_tensors(recording, node) for node in behind),
        all(_takes_places(recording, node, shape_of(feature), channels) for node in behind),
    )


def list_between(flow: nx.DiGraph, start: fx.Node, end: fx.Node) -> list[fx.Node]:
    """List what lies on ways from one value to another, the latter included."""
    return [node for node in keep_between(flow, [start], [end]) if node is not start]


def _name_kind(recording: Recording, nodes: list[fx.Node]) -> str | None:
    kinds = {_kind(recording, node) for node in nodes if is_pool(recording, node)}
    picks = [node for node in nodes if is_pick(node)]
    others = [node for node in nodes if not _is_plain(recording, node)]
    if others or None in kinds:
        return None
    if kinds == {"avg", "max"}:
        return "catavgmax" if any(function_of(node) in JOINS for node in nodes) else "avgmax"
    if kinds:
        return kinds.pop()
    return "token" if any(map(_picks_first, picks)) else None


def _is_plain(recording: Recording, node: fx.Node) -> bool:
    tests = (is_pool, is_layout, is_dropout)
    joins = function_of(node) in JOINS | {"add", "mul", "iadd", "imul", "div", "truediv"}
    return joins or is_pick(node) or any(test(recording, node) for test in tests)


def _kind(recording: Recording, node: fx.Node) -> str | None:
    name = kind_of(recording, node)
    if "max" in name:
        return "max"
    return "avg" if "avg" in name or name == "mean" else None


def _picks_first(node: fx.Node) -> bool:
    if function_of(node) == "select":
        return tuple(node.args[1:]) == (1, 0)
    return function_of(node) == "getitem" and node.args[1] in ((slice(None), 0), (slice(None, None, None), 0, ...))


def has_class_token(recording: Recording) -> bool:
    """Say whether the model reads a tensor that is called a class token."""
    paths = (str(node.target) for node in recording.nodes if node.op == "get_attr")
    return any(_CLASS_TOKEN.search(path.rpartition(".")[2]) for path in paths)


def _has_tensors(recording: Recording, node: fx.Node) -> bool:
    module = module_of(recording, node)
    if module is not None:
        return next(module.parameters(), None) is not None or next(module.buffers(), None) is not None
    return any(source.op == "get_attr" for source in node.all_input_nodes)


def _keeps_axes(pooled: Shape, features: Shape, channels: int) -> bool:
    """Say whether a pooled value has its channels where the features have them, and axes of one elsewhere."""
    return len(pooled) == len(features) and pooled[channels] == math.prod(pooled[1:])


def _takes_places(recording: Recording, node: fx.Node, features: Shape, channels: int) -> bool:
    """Say whether an operation on what was pooled does the same at each place of the features.

    Args:
        recording: where the operation is from.
        node: the operation.
        features: their shape.
        channels: their axis of channels.
    """
    last = channels == len(features) - 1
    if node.op == "get_attr" or is_layout(recording, node) or is_dropout(recording, node):
        return True
    module, kept = module_of(recording, node), _keeps_axes(shape_of(node.all_input_nodes[0]), features, channels)
    if module is not None and type(module).__module__.startswith("torch.nn.modules.activation"):
        return not isinstance(module, (nn.Softmax, nn.LogSoftmax, nn.MultiheadAttention))
    over_channels = isinstance(module, _LAYERS_OVER_CHANNELS) or function_of(node) in ("layer_norm", "linear")
    if over_channels:
        return last or (kept and channels == 1)
    return kept and (is_norm(recording, node) or is_linear(recording, node, True))


def list_layouts(recording: Recording, flow: nx.DiGraph, pooled: fx.Node, source: fx.Node) -> frozenset[fx.Node]:
    """List what only arranges a pooled value anew on its way to the classifier."""
    behind = list_between(flow, pooled, source)
    return frozenset(node for node in behind if is_layout(recording, node))


def pool(x: torch.Tensor, pooling: Pooling, kind: str) -> torch.Tensor:
    """Pool features.

    >>> pooling = Pooling("avg", (1, 8, 4, 4), 1, (1, 8), False, False, True, True)
    >>> pool(torch.rand(2, 8, 6, 6), pooling, "catavgmax").shape
    torch.Size([2, 16])

    Args:
        x: the features; of tokens, those of the image alone, but for ``"token"``.
        pooling: how the model pools.
        kind: one of ``avg``, ``max``, ``avgmax``, ``catavgmax`` and ``token``.

    Returns:
        A value of as many axes as the model's own pooling gives.
    """
    flat = _pool_flat(x, pooling, kind)
    if len(pooling.pooled) == 2:
        return flat
    widest = max(range(1, len(pooling.pooled)), key=pooling.pooled.__getitem__)
    return flat.reshape(len(flat), *(-1 if axis == widest else 1 for axis in range(1, len(pooling.pooled))))


def _pool_flat(x: torch.Tensor, pooling: Pooling, kind: str) -> torch.Tensor:
    if kind == "token":
        return x[:, 0]
    axes = tuple(axis for axis in range(1, x.dim()) if axis != pooling.channels)
    mean, greatest = x.mean(axes), _pool_greatest(x, pooling, axes)
    if kind == "avg":
        return mean
    if kind == "max":
        return greatest
    return 0.5 * (mean + greatest) if kind == "avgmax" else torch.cat((mean, greatest), 1)


def _pool_greatest(x: torch.Tensor, pooling: Pooling, axes: tuple[int, ...]) -> torch.Tensor:
    """Take the greatest of each channel; of a map, by the pool whose gradient goes to one place where several are."""
    if x.dim() == 4 and pooling.channels == 1:
        return F.adaptive_max_pool2d(x, 1).flatten(1)
    return x.amax(axes)
