"""Say in words why an operation gives another value on a dense map."""

from __future__ import annotations

from torch import fx

from fxfeat.ir.node_meta import TensorMeta, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.stride.shape_rules import called
from fxfeat.stride.windows import read_window


def explain(recording: Recording, node: fx.Node) -> str:
    """Explain why the dense value of a node is not the strided one."""
    window = read_window(recording, node)
    name = called(recording, node)
    if name in ("identity", "leaveout"):
        return "an average behind a convolution on a side branch goes with its stride, as in timm"
    if window is not None and window.kind == "average" and max(window.dilation) == 1:
        return "an average on a side branch is not dilated, as in timm"
    if window is not None and window.kind == "conv" and not window.learned:
        return "a fixed filter on a side branch is not dilated, as in timm"
    if window is not None and window.kind == "pad":
        return "padding that repeats values takes them from between the strided ones"
    before, after = _positions_before(node), _positions_after(node)
    if before is not None and after is not None and after < before:
        return "it pools over all positions, of which there are more"
    return _BY_NAME.get(name.rstrip("123d"), "it looks at several positions at once")


_BY_NAME = {
    "groupnorm": "it normalises over all positions, of which there are more",
    "instancenorm": "it normalises over all positions, of which there are more",
    "softmax": "it attends to all positions, of which there are more",
    "scaleddotproductattention": "it attends to all positions, of which there are more",
    "matmul": "it attends to all positions, of which there are more",
    "bmm": "it attends to all positions, of which there are more",
    "multiheadattention": "it attends to all positions, of which there are more",
    "interpolate": "it interpolates between positions that lie closer together",
    "upsample": "it interpolates between positions that lie closer together",
}


def _positions_before(node: fx.Node) -> int | None:
    shapes = [meta_of(held).value.shape for held in node.all_input_nodes if isinstance(meta_of(held).value, TensorMeta)]
    return max((_count(shape) for shape in shapes), default=None)


def _positions_after(node: fx.Node) -> int | None:
    value = meta_of(node).value
    return _count(value.shape) if isinstance(value, TensorMeta) else None


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape[2:]:
        count *= size
    return count
