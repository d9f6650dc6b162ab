"""Rewrites of a graph that hold for inference alone: norms folded into the layers before them, identities dropped."""

from __future__ import annotations

import dataclasses
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxfeat.ir.draft import Draft
from fxfeat.ir.node_meta import TensorMeta, meta_of
from fxfeat.ir.tree import map_nodes, nodes_in
from fxfeat.runtime.check import check

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_DROPPING = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
_ARGUMENTS = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_CHANNELS_LAST = 2
"""The rank at which a linear layer's outputs stand where a norm looks for channels."""

Modules = Mapping[str, nn.Module]


@dataclass(frozen=True)
class Norm:
    """A batch norm as it is in inference: what it takes, and the tensors that it goes by."""

    source: fx.Node
    mean: torch.Tensor
    variance: torch.Tensor
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    eps: float


@dataclass(frozen=True)
class Fold:
    """A norm that can be folded into a layer, and where these stand in a graph."""

    node: fx.Node
    norm: Norm
    layer: nn.Module
    path: str


# -- identities --------------------------------------------------------------------------------------------------------


def drop_identities(draft: Draft, modules: Modules) -> Draft:
    """Drop identities and dropouts, which give in inference what they are given."""
    for node in list(draft.graph.nodes):
        if _is_identity(node, modules):
            draft = _replace(draft, node, node.args[0])
    return draft


def _is_identity(node: fx.Node, modules: Modules) -> bool:
    if not node.args or not isinstance(node.args[0], fx.Node) or meta_of(node).draws:
        return False
    if node.op == "call_module":
        module = modules[str(node.target)]
        return type(module) is nn.Identity or (type(module) in _DROPOUTS and not module.training)
    return node.target in _DROPPING and node.kwargs.get("training") is False


# -- norms -------------------------------------------------------------------------------------------------------------


def fold_norms(draft: Draft, modules: Modules) -> tuple[Draft, list[Fold]]:
    """Take norms out of a graph that the layers in front of them can do as well, once their weights are changed."""
    folds = list(_list_folds(draft, modules))
    for fold in folds:
        draft = _replace(draft, fold.node, fold.norm.source)
        if isinstance(fold.layer, (nn.Linear, nn.Conv1d, nn.ConvTranspose1d)):
            _check_rank(draft.graph, fold.norm.source)
    return draft, folds


def _check_rank(graph: fx.Graph, node: fx.Node) -> None:
    """Check at run time that a norm over one dimension would have looked at what the layer calls channels."""
    rank = len(meta_of(node).value.shape)
    meta = dataclasses.replace(meta_of(node), value=rank, aliases=frozenset(), reads=frozenset(), same_as=None)
    with graph.inserting_after(node):
        asked = graph.call_method("dim", (node,))
    with graph.inserting_after(asked):
        checked = graph.call_function(check, (asked, rank, f"{node.target}: `the norm behind it is folded into it`"))
    asked.meta["fxfeat"], checked.meta["fxfeat"] = meta, dataclasses.replace(meta, value=None)


def _list_folds(draft: Draft, modules: Modules) -> Iterator[Fold]:
    features = {node for feature in draft.features for node in nodes_in(feature.value)}
    calls = Counter(id(modules[str(node.target)]) for node in draft.graph.nodes if node.op == "call_module")
    holders = _count_holders(draft, modules)
    for node in draft.graph.nodes:
        norm = _read_norm(node, draft.recording.root, modules)
        if norm is None or norm.source.op != "call_module" or norm.source in features or len(norm.source.users) != 1:
            continue
        path = str(norm.source.target)
        layer: Any = modules[path]
        own = [tensor for tensor in (layer.weight, layer.bias) if tensor is not None] if type(layer) in _LAYERS else []
        if own and calls[id(layer)] == 1 and all(holders[id(tensor)] == 1 for tensor in own) and _fits(layer, norm):
            yield Fold(node, norm, layer, path)


def _count_holders(draft: Draft, modules: Modules) -> Counter[int]:
    """Count, for each tensor, the modules that are called and hold it, and the places that read it."""
    calls = (modules[str(node.target)] for node in draft.graph.nodes if node.op == "call_module")
    called = {id(module): module for module in calls}
    paths = (str(node.target) for node in draft.graph.nodes if node.op == "get_attr")
    reads = [operator.attrgetter(path)(draft.recording.root) for path in paths if path]
    return Counter(id(tensor) for tensor in [*_tensors_of(called.values()), *reads])


def _tensors_of(modules: Any) -> Iterator[torch.Tensor]:
    for module in modules:
        yield from module.parameters()


def _read_norm(node: fx.Node, root: nn.Module, modules: Modules) -> Norm | None:
    """Read a batch norm that goes by running statistics, be it a module or a call of the function."""
    if node.op == "call_module" and type(modules[str(node.target)]) in _NORMS:
        module: Any = modules[str(node.target)]
        if module.training or module.running_mean is None or not isinstance(node.args[0], fx.Node):
            return None
        statistics = (module.running_mean, module.running_var, module.weight, module.bias)
        return Norm(node.args[0], *statistics, module.eps)
    return _read_call(node, root) if node.op == "call_function" and node.target is F.batch_norm else None


def _read_call(node: fx.Node, root: nn.Module) -> Norm | None:
    given: dict[str, Any] = {**dict(zip(_ARGUMENTS, node.args, strict=False)), **node.kwargs}
    statistics = [given.get(name) for name in ("running_mean", "running_var", "weight", "bias")]
    computed = any(isinstance(each, fx.Node) and each.op != "get_attr" for each in statistics)
    if computed or given.get("training", False) is not False or not isinstance(given["input"], fx.Node):
        return None
    mean, variance, weight, bias = (
        None if each is None else operator.attrgetter(str(each.target))(root) for each in statistics
    )
    if mean is None or variance is None:
        return None
    return Norm(given["input"], mean, variance, weight, bias, given.get("eps", 1e-5))


def _fits(layer: Any, norm: Norm) -> bool:
    """Say whether a layer's output channels are those that a norm looks at."""
    if isinstance(layer, _TRANSPOSED) and layer.groups != 1:
        return False
    if layer.weight.dtype != norm.mean.dtype or layer.weight.dtype not in (torch.float32, torch.float64):
        return False
    measured = meta_of(norm.source).value
    return not isinstance(layer, nn.Linear) or (
        isinstance(measured, TensorMeta) and len(measured.shape) == _CHANNELS_LAST
    )


def fold_weights(fold: Fold) -> None:
    """Change the weights of a layer so that it does what the norm behind it did."""
    layer: Any = fold.layer
    norm = fold.norm
    scale = torch.ones_like(norm.mean) if norm.weight is None else norm.weight
    shift = torch.zeros_like(norm.mean) if norm.bias is None else norm.bias
    given = (layer.weight, layer.bias, norm.mean, norm.variance, norm.eps, scale, shift)
    if isinstance(layer, nn.Linear):
        weight, bias = torch.nn.utils.fuse_linear_bn_weights(*given)
    else:
        weight, bias = torch.nn.utils.fuse_conv_bn_weights(*given, transpose=isinstance(layer, _TRANSPOSED))
    layer.weight, layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())


# -- graphs ------------------------------------------------------------------------------------------------------------


def _replace(draft: Draft, node: fx.Node, other: Any) -> Draft:
    """Let everything that uses a node use another in its place."""
    node.replace_all_uses_with(other)
    draft.graph.erase_node(node)
    exchange: Callable[[fx.Node], fx.Node] = lambda one: other if one is node else one  # noqa: E731
    features = tuple(
        dataclasses.replace(feature, value=map_nodes(feature.value, exchange)) for feature in draft.features
    )
    return dataclasses.replace(draft, features=features)
