"""Values of a map's shape whose numbers do not lie where its places are: padded, turned, flipped, transformed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum

from torch import fx, nn

from fxfeat.ir.recording import Recording
from fxfeat.vision.layout import Layout
from fxfeat.vision.operations import PARTS, TURNS, VIEWS, function_of, module_of, slides
from fxfeat.vision.shapes import shape_of

_ARRANGES = VIEWS | TURNS
_DISPLACES = frozenset(
    ("flip", "fliplr", "flipud", "roll", "rot90", "index_select", "gather", "take_along_dim", "narrow", "select")
)
_LOSES = re.compile("fft|grid_sample|affine_grid|ifft")
_PADDING_LAYERS = (
    *(nn.modules.padding._ConstantPadNd, nn.modules.padding._ReflectionPadNd, nn.modules.padding._ReplicationPadNd),
    nn.modules.padding._CircularPadNd,
)


class Stray(Enum):
    """Why a value is no map.

    What is ``PADDED`` has places around the image's; a window that slides over it, or a crop, makes a map of it. What
    is ``TURNED`` has places that are not in the image's order, as has all that is computed from it alone, until they
    are put back. Of what is ``UNSURE`` nothing tells where its places lie.
    """

    PADDED = "padded"
    TURNED = "turned"
    UNSURE = "unsure"


Strays = dict[fx.Node, Stray]


def rearranges(recording: Recording, node: fx.Node) -> bool:
    """Say whether a step may move numbers to other places, so that its places tell whether it is a map."""
    name = function_of(node)
    if name == "getitem" and node.args[1] == 0 and any(slides(recording, source) for source in node.all_input_nodes):
        return False  # what a pooling gives that returns where it found that as well
    return name in _ARRANGES | _DISPLACES | PARTS or bool(_LOSES.search(name)) or pads(recording, node)


def pads(recording: Recording, node: fx.Node) -> bool:
    """Say whether a step puts something around its input."""
    return function_of(node) == "pad" or isinstance(module_of(recording, node), _PADDING_LAYERS)


def inherit_stray(
    recording: Recording, node: fx.Node, layouts: Mapping[fx.Node, Layout], strays: Mapping[fx.Node, Stray]
) -> Stray | None:
    """Say what a value is because all that it was computed from, of as many axes, is so; None where some is a map."""
    sources = [source for source in node.all_input_nodes if source in layouts or source in strays]
    alike = [source for source in sources if not shape_of(node) or len(shape_of(source)) in (0, len(shape_of(node)))]
    kinds = {strays[source] for source in alike if source not in layouts}
    if not kinds or any(source in layouts for source in alike):
        return None
    if kinds == {Stray.PADDED}:
        return None if slides(recording, node) else Stray.PADDED
    return Stray.TURNED if Stray.TURNED in kinds else Stray.UNSURE


def judge_moved(recording: Recording, node: fx.Node, inherited: Stray | None, known: bool) -> Stray:
    """Say what a value is that a step moved out of the image's order.

    Args:
        recording: of the model.
        node: the step.
        inherited: what its input is, None for a map.
        known: whether it is known where its numbers lie.
    """
    if pads(recording, node) or (inherited is Stray.PADDED and _is_same_shape(node)):
        return inherited or Stray.PADDED
    return Stray.TURNED if known or inherited is Stray.TURNED or _LOSES.search(function_of(node)) else Stray.UNSURE


def _is_same_shape(node: fx.Node) -> bool:
    return any(shape_of(source) == shape_of(node) for source in node.all_input_nodes)
