"""What kind of operation a call is: a norm, a change of layout, a pick, a pool, a squash, or one that slides."""

from __future__ import annotations

from torch import fx, nn

from fxfeat.ir.recording import Recording
from fxfeat.vision.shapes import is_tensor, shape_of

VIEWS = frozenset(("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "contiguous", "clone"))
TURNS = frozenset(("permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims"))
_CASTS = frozenset(("float", "half", "double", "bfloat16", "to", "type_as", "type"))
_LAYOUT = VIEWS | TURNS | _CASTS | {"t", "reshape_as", "view_as", "ravel", "detach", "expand", "rearrange", "same"}
PARTS = frozenset(("getitem", "split", "chunk", "unbind"))
_PICK = PARTS | {"narrow", "select", "index_select", "take", "tensor_split"}
_DROPOUT = frozenset(
    ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "stochastic_depth")
)
_POOL = frozenset(
    (
        *("mean", "amax", "max", "sum", "logsumexp", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
        *("max_pool1d", "max_pool2d", "max_pool3d"),
        *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d"),
    )
)
ARITHMETIC = frozenset(
    ("add", "iadd", "add_", "sub", "isub", "sub_", "mul", "imul", "mul_", "div", "div_", "truediv", "itruediv")
)
_SQUASH = frozenset(("softmax", "log_softmax", "sigmoid", "logsigmoid", "relu", "relu_"))
NORMS = frozenset(("layer_norm", "batch_norm", "group_norm", "instance_norm", "rms_norm", "local_response_norm"))
CONVOLUTIONS = frozenset(("conv1d", "conv2d", "conv3d", "convolution"))
_SLIDING = CONVOLUTIONS | {"interpolate", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
ATTENTION = frozenset(("scaled_dot_product_attention", "matmul", "bmm", "baddbmm"))
JOINS = frozenset(("cat", "concat", "concatenate"))

CONVOLUTION_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
MAX_POOL_LAYERS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
AVERAGE_POOL_LAYERS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_ADAPTIVE_POOL_LAYERS = (nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)
_POOL_LAYERS = (*_ADAPTIVE_POOL_LAYERS, nn.modules.pooling._AvgPoolNd, nn.modules.pooling._MaxPoolNd)
_DROPOUT_LAYERS = (nn.Identity, nn.modules.dropout._DropoutNd)
_LAYOUT_LAYERS = (nn.Flatten, nn.Unflatten)
_SQUASH_LAYERS = (nn.Softmax, nn.LogSoftmax, nn.Sigmoid, nn.LogSigmoid, nn.ReLU)
_NORM_LAYERS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.RMSNorm)


def module_of(recording: Recording, node: fx.Node) -> nn.Module | None:
    """Return the leaf module that a node calls."""
    return recording.root.get_submodule(str(node.target)) if node.op == "call_module" else None


def function_of(node: fx.Node) -> str:
    """Return the bare name of the function or method that a node calls; one that writes to its input ends in ``_``."""
    if node.op not in ("call_function", "call_method"):
        return ""
    written = node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", ""))
    in_place = written.endswith("_") and not written.startswith("__")
    return written.strip("_") + "_" * in_place


def kind_of(recording: Recording, node: fx.Node) -> str:
    """Spell what a node calls without underscores and capitals, so that layers and functions are alike.

    A layer is ``AdaptiveAvgPool2d``, the function ``adaptive_avg_pool2d``.
    """
    module = module_of(recording, node)
    name = function_of(node) if module is None else type(module).__name__
    return name.lower().replace("_", "")


def is_layout(recording: Recording, node: fx.Node) -> bool:
    """Say whether a node only arranges its input anew."""
    module = module_of(recording, node)
    if module is not None:
        return isinstance(module, _LAYOUT_LAYERS) or (_is_bare(module) and _permutes(node))
    return function_of(node) in _LAYOUT


def _is_bare(module: nn.Module) -> bool:
    return next(module.parameters(), None) is None and next(module.buffers(), None) is None


def _permutes(node: fx.Node) -> bool:
    """Say whether a module looks like a permutation: as many elements out as in, other axes."""
    sources = node.all_input_nodes
    if len(sources) != 1 or not is_tensor(node) or not is_tensor(sources[0]):
        return False
    before, after = shape_of(sources[0]), shape_of(node)
    return after != before and sorted(after) == sorted(before)


def is_pick(node: fx.Node) -> bool:
    """Say whether a node takes a part of its input."""
    return function_of(node) in _PICK


def is_dropout(recording: Recording, node: fx.Node) -> bool:
    """Say whether a node is dropout or the identity."""
    return function_of(node) in _DROPOUT or isinstance(module_of(recording, node), _DROPOUT_LAYERS)


def is_pool(recording: Recording, node: fx.Node) -> bool:
    """Say whether a node sums up over axes or windows."""
    return function_of(node) in _POOL or isinstance(module_of(recording, node), _POOL_LAYERS)


def is_adaptive_pool(recording: Recording, node: fx.Node) -> bool:
    """Say whether a node pools to a size that its input does not decide."""
    adaptive = function_of(node).startswith("adaptive_")
    return adaptive or isinstance(module_of(recording, node), _ADAPTIVE_POOL_LAYERS)


def is_blend(node: fx.Node) -> bool:
    """Say whether a node is arithmetic between tensors or with numbers, or stacks tensors."""
    return function_of(node) in ARITHMETIC or function_of(node) == "stack"


def is_squash(recording: Recording, node: fx.Node) -> bool:
    """Say whether a node bounds scores: softmax, sigmoid, or ReLU as SqueezeNet has it."""
    return function_of(node) in _SQUASH or isinstance(module_of(recording, node), _SQUASH_LAYERS)


def is_norm(recording: Recording, node: fx.Node) -> bool:
    """Say whether a node normalises."""
    return function_of(node) in NORMS or isinstance(module_of(recording, node), _NORM_LAYERS)


def slides(recording: Recording, node: fx.Node) -> bool:
    """Say whether a node slides a window over a map: a convolution, a pool or an interpolation."""
    module = module_of(recording, node)
    if module is not None:
        return hasattr(module, "kernel_size") or isinstance(module, nn.Upsample)
    name = function_of(node)
    return name in _SLIDING or ("pool" in name and "adaptive" not in name)
