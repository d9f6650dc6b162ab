"""What operations do to a map: whether they let its places see each other, and whether they learn."""

from __future__ import annotations

from torch import fx, nn

from fxfeat.ir.node_meta import TensorMeta, meta_of
from fxfeat.ir.recording import Recording

_LAYERS = (nn.MultiheadAttention, nn.RNNBase, nn.TransformerEncoderLayer)
_FUNCTIONS = frozenset(("matmul", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention", "__matmul__"))
_CONVOLUTIONS = frozenset(f"conv{suffix}" for suffix in ("1d", "2d", "3d", "olution"))
_SLIDING = _CONVOLUTIONS | {"interpolate", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}


def mixes(recording: Recording, node: fx.Node) -> bool:
    """Say whether an operation mixes places by learnt weights: a convolution wider than 1, attention, recurrence."""
    if node.op == "call_module":
        module = recording.root.get_submodule(str(node.target))
        return isinstance(module, _LAYERS) or _is_wide(getattr(module, "kernel_size", 1), module)
    name = _name(node)
    if name in _CONVOLUTIONS:
        return _has_wide_weight(node)
    return name in _FUNCTIONS


def _is_wide(kernel_size: object, module: nn.Module) -> bool:
    if not any(parameter.dim() > 2 for parameter in module.parameters(recurse=False)):
        return False
    return any(size > 1 for size in kernel_size) if isinstance(kernel_size, tuple) else kernel_size != 1


def _has_wide_weight(node: fx.Node) -> bool:
    weights = [source for source in node.all_input_nodes[1:2] if isinstance(meta_of(source).value, TensorMeta)]
    return any(size > 1 for weight in weights for size in meta_of(weight).value.shape[2:])


def has_weights(recording: Recording, node: fx.Node) -> bool:
    """Say whether an operation uses a learnt matrix or kernel, not just learnt numbers for each channel."""
    if node.op == "call_module":
        return any(held.dim() > 1 for held in recording.root.get_submodule(str(node.target)).parameters())
    if _name(node) in (*_CONVOLUTIONS, "linear"):
        return True  # also where the kernel is computed from a parameter, as weight standardisation does
    names = [str(source.target) for source in node.all_input_nodes if source.op == "get_attr"]
    parameters = dict(recording.root.named_parameters(remove_duplicate=False)) if names else {}
    return any(name in parameters and parameters[name].dim() > 1 for name in names)


def slides(recording: Recording, node: fx.Node) -> bool:
    """Say whether an operation slides a window over a map: a convolution, a pool or an interpolation."""
    if node.op == "call_module":
        module = recording.root.get_submodule(str(node.target))
        return hasattr(module, "kernel_size") or isinstance(module, nn.Upsample)
    name = _name(node)
    return name in _SLIDING or ("_pool" in name and "adaptive" not in name)


def attends(node: fx.Node) -> bool:
    """Say whether an operation multiplies matrices of values, as attention does: its axes are no grid's."""
    weights = any(source.op == "get_attr" for source in node.all_input_nodes)
    return node.op != "call_module" and _name(node) in _FUNCTIONS and not weights


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
