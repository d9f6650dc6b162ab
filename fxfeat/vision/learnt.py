"""What of an operation is learnt: whether weights go into it, and whether places of a map see each other by them."""

from __future__ import annotations

from torch import fx, nn

from fxfeat.ir.recording import Recording
from fxfeat.vision.data_flow import list_origins
from fxfeat.vision.operations import ATTENTION, CONVOLUTION_LAYERS, CONVOLUTIONS, function_of, module_of
from fxfeat.vision.shapes import shape_of

_PRODUCTS = ATTENTION | {"einsum"}
_MIXING_LAYERS = (nn.MultiheadAttention, nn.RNNBase, nn.TransformerEncoderLayer)
_LINEAR = frozenset(("linear", "conv1d", "conv2d", "conv3d", "addmm", "matmul", "mm", "einsum"))


def mixes(recording: Recording, node: fx.Node) -> bool:
    """Say whether an operation mixes places by learnt weights: a convolution wider than 1, attention, recurrence."""
    module = module_of(recording, node)
    if module is not None:
        return isinstance(module, _MIXING_LAYERS) or _is_wide(getattr(module, "kernel_size", 1), module)
    if function_of(node) in CONVOLUTIONS:
        return any(size > 1 for weight in node.all_input_nodes[1:2] for size in shape_of(weight)[2:])
    return function_of(node) in _PRODUCTS


def _is_wide(kernel_size: object, module: nn.Module) -> bool:
    if not any(parameter.dim() > 2 for parameter in module.parameters(recurse=False)):
        return False
    return any(size > 1 for size in kernel_size) if isinstance(kernel_size, tuple) else kernel_size != 1


def attends(node: fx.Node) -> bool:
    """Say whether an operation multiplies matrices of values, as attention does: its axes are no grid's."""
    weights = any(source.op == "get_attr" for source in node.all_input_nodes)
    return function_of(node) in _PRODUCTS and not weights


def has_weights(recording: Recording, node: fx.Node) -> bool:
    """Say whether an operation uses a learnt matrix or kernel, not just learnt numbers for each channel."""
    module = module_of(recording, node)
    if module is not None:
        return any(parameter.dim() > 1 for parameter in module.parameters())
    if function_of(node) in CONVOLUTIONS | {"linear"}:
        return True  # also where the kernel is computed from a parameter, as weight standardisation does
    names = [str(source.target) for source in node.all_input_nodes if source.op == "get_attr"]
    parameters = dict(recording.root.named_parameters(remove_duplicate=False)) if names else {}
    return any(name in parameters and parameters[name].dim() > 1 for name in names)


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
    if isinstance(module, CONVOLUTION_LAYERS):
        return pooled or set(module.kernel_size) == {1}
    return function_of(node) in _LINEAR and any(_is_weight(source) for source in node.all_input_nodes)


def _is_weight(node: fx.Node) -> bool:
    """Say whether a value is a parameter, or is computed from parameters alone."""
    origins = list(list_origins(node))
    computed = any(origin.op in ("placeholder", "call_module") for origin in origins)
    return not computed and any(origin.op == "get_attr" for origin in origins)


def is_fixed(recording: Recording, weight: fx.Node) -> bool:
    """Say whether no parameter and no input goes into a weight."""
    parameters = dict(recording.root.named_parameters(remove_duplicate=False))
    return not any(
        origin.op == "placeholder" or (origin.op == "get_attr" and origin.target in parameters)
        for origin in list_origins(weight)
    )
