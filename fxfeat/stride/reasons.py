"""Say in words why an operation gives another value on a dense map."""

from __future__ import annotations

import math

from torch import fx

from fxfeat.ir.recording import Recording
from fxfeat.stride.read_windows import read_window
from fxfeat.vision.operations import kind_of
from fxfeat.vision.shapes import is_tensor, shape_of


def explain(recording: Recording, node: fx.Node) -> str:
    """Explain why the dense value of a node is not the strided one."""
    window = read_window(recording, node)
    name = kind_of(recording, node)
    if name in ("identity", "leaveout"):
        return "an average behind a convolution on a side branch goes with its stride, as in timm"
    if window is not None and window.kind == "average" and max(window.dilation) == 1:
        return "an average on a side branch is not dilated, as in timm"
    if window is not None and window.kind == "conv" and not window.learned:
        return "a fixed filter on a side branch is not dilated, as in timm"
    if window is not None and window.kind == "pad":
        return "padding that repeats values takes them from between the strided ones"
    before = max((_count_positions(source) for source in node.all_input_nodes if is_tensor(source)), default=0)
    if is_tensor(node) and _count_positions(node) < before:
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


def _count_positions(node: fx.Node) -> int:
    return math.prod(shape_of(node)[2:])
