"""What kind of operation a node of a recording is: linear, a norm, a change of layout, a pick, a pool, a squash."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from fxfeat.ir.node_meta import TensorMeta, meta_of
from fxfeat.ir.recording import Recording

_LAYOUT = {
    *("permute", "transpose", "reshape", "view", "flatten", "unflatten", "contiguous", "squeeze", "unsqueeze", "t"),
    *("movedim", "moveaxis", "swapaxes", "swapdims", "reshape_as", "view_as", "ravel", "clone", "detach", "expand"),
    *("float", "half", "double", "bfloat16", "to", "type_as", "type", "rearrange", "same"),
}
_PICK = {"getitem", "narrow", "split", "chunk", "select", "unbind", "index_select", "take", "tensor_split"}
_DROP = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "stochastic_depth"}
_POOL = {
    *("mean", "amax", "max", "sum", "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d", "logsumexp"),
}
_BLEND = {"add", "iadd", "add_", "sub", "isub", "mul", "imul", "mul_", "truediv", "itruediv", "div", "div_", "stack"}
_SQUASH = {"softmax", "log_softmax", "sigmoid", "logsigmoid", "relu", "relu_"}
_LINEAR = {"linear", "conv1d", "conv2d", "conv3d", "addmm", "matmul", "mm", "einsum"}
_NORM = {"layer_norm", "batch_norm", "group_norm", "instance_norm", "rms_norm", "local_response_norm"}

_DROP_MODULES = (nn.Identity, nn.modules.dropout._DropoutNd)
_LAYOUT_MODULES = (nn.Flatten, nn.Unflatten)
_POOL_MODULES = (
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._MaxPoolNd,
)
_SQUASH_MODULES = (nn.Softmax, nn.LogSoftmax, nn.Sigmoid, nn.LogSigmoid, nn.ReLU)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORM_MODULES = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    *((nn.RMSNorm,) if hasattr(nn, "RMSNorm") else ()),
)


def module_of(recording: Recording, node: fx.Node) -> nn.Module | None:
    """Return the leaf module that a node calls."""
    return recording.root.get_submodule(str(node.target)) if node.op == "call_module" else None


def name_of(node: fx.Node) -> str:
    """Return the bare name of the function or method that a node calls."""
    if node.op not in ("call_function", "call_method"):
        return ""
    written: Any = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return str(written).strip("_") + ("_" if str(written).endswith("_") and not str(written).startswith("__") else "")


def is_layout(recording: Recording, node: fx.Node) -> bool:
    """Say whether a node only arranges its input anew."""
    module = module_of(recording, node)
    if module is not None:
        return isinstance(module, _LAYOUT_MODULES) or (_is_bare(module) and _keeps_count(node))
    return name_of(node) in _LAYOUT


def is_pick(node: fx.Node) -> bool:
    """Say whether a node takes a part of its input."""
    return name_of(node) in _PICK


def is_drop(recording: Recording, node: fx.Node) -> bool:
    """Say whether a node is dropout or the identity."""
    return name_of(node) in _DROP or isinstance(module_of(recording, node), _DROP_MODULES)


def is_pool(recording: Recording, node: fx.Node) -> bool:
    """Say whether a node sums up over axes or windows."""
    return name_of(node) in _POOL or isinstance(module_of(recording, node), _POOL_MODULES)


def is_adaptive_pool(recording: Recording, node: fx.Node) -> bool:
    """Say whether a node pools to a size that its input does not decide."""
    kinds = (nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)
    return name_of(node).startswith("adaptive_") or isinstance(module_of(recording, node), kinds)


def is_blend(node: fx.Node) -> bool:
    """Say whether a node is arithmetic between tensors or with numbers."""
    return name_of(node) in _BLEND


def is_squash(recording: Recording, node: fx.Node) -> bool:
    """Say whether a node bounds scores: softmax, sigmoid, or ReLU as SqueezeNet has it."""
    return name_of(node) in _SQUASH or isinstance(module_of(recording, node), _SQUASH_MODULES)


def is_norm(recording: Recording, node: fx.Node) -> bool:
    """Say whether a node normalises."""
    return name_of(node) in _NORM or isinstance(module_of(recording, node), _NORM_MODULES)


def is_linear(recording: Recording, node: fx.Node, pooled: bool) -> bool:
    """Say whether a node is a linear layer, or a convolution that works as one.

    Args:
        recording: where the node is from.
        node: the node.
        pooled: whether its result has no positions left, so that a convolution of any size is a linear layer.
    """
    module = module_of(recording, node)
    if isinstance(module, nn.Linear):
        return True
    if isinstance(module, _CONVOLUTIONS):
        return pooled or set(module.kernel_size) == {1}
    return name_of(node) in _LINEAR and any(_is_weight(held) for held in node.all_input_nodes)


def _is_weight(node: fx.Node) -> bool:
    """Say whether a value is a parameter, or is computed from parameters alone."""
    waiting, weighty = [node], False
    while waiting:
        held = waiting.pop()
        if held.op in ("placeholder", "call_module"):
            return False
        weighty = weighty or held.op == "get_attr"
        waiting += held.all_input_nodes
    return weighty


def _is_bare(module: nn.Module) -> bool:
    return next(module.parameters(), None) is None and next(module.buffers(), None) is None


def _keeps_count(node: fx.Node) -> bool:
    """Say whether a module that has a permutation's signature: as many elements out as in, other axes."""
    sources = [meta_of(held).value for held in node.all_input_nodes]
    value = meta_of(node).value
    if len(sources) != 1 or not isinstance(value, TensorMeta) or not isinstance(sources[0], TensorMeta):
        return False
    return value.shape != sources[0].shape and sorted(value.shape) == sorted(sources[0].shape)
