"""Record one module of a model alone, called as the model calls it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from fxfeat.errors import FxfeatError, TraceError
from fxfeat.ir.example import Example
from fxfeat.ir.module_call import ModuleAt, ModuleCall, Opaque
from fxfeat.ir.node_meta import TensorMeta, meta_of
from fxfeat.ir.recording import Recording
from fxfeat.ir.tree import Build, leaves_of, map_nodes
from fxfeat.stride.change import Change
from fxfeat.stride.image_flow import Flow
from fxfeat.stride.read_windows import read_window
from fxfeat.stride.slices import is_slice
from fxfeat.stride.windows import Window
from fxfeat.trace.setup import Setup, read_setup, record_mode

Changes = dict[int, Change]
"""Changes by the number of the call among those that ``call_sites`` lists."""


@dataclass(frozen=True)
class Run:
    """One call of a module whose ``forward`` calls functions that are to change."""

    flow: Flow
    module_call: ModuleCall
    changes: Changes
    sites: int


def call_sites(recording: Recording, module_call: int) -> list[fx.Node]:
    """List the calls of functions that slide a window, pad or slice, made by one module itself."""
    functions = (node for node in recording.graph.nodes if node.op == "call_function")
    own = (node for node in functions if meta_of(node).module_call == module_call)
    return [node for node in own if is_slice(node) or read_window(recording, node) is not None]


def setup_alone(module: nn.Module, run: Run) -> Setup:
    """Make ready to record a module with what a call gave it.

    Raises:
        TraceError: where an argument of that call cannot be made again.
    """
    given = (run.module_call.args, run.module_call.kwargs)
    if any(isinstance(part, (Opaque, Build, ModuleAt)) for part in leaves_of(given)):
        raise TraceError(
            f"{run.module_call.path!r} calls a strided function, and is itself called with arguments that cannot be "
            "written down as code."
        )
    example = Example(map_nodes(run.module_call.args, _stand_in), map_nodes(run.module_call.kwargs, _stand_in))
    setup = read_setup(module, None, None, torch.zeros(1))
    setup.examples = (example,)
    return setup


def _stand_in(node: fx.Node) -> Any:
    value = meta_of(node).value
    if isinstance(value, TensorMeta):
        return torch.zeros(value.shape, dtype=value.dtype)
    return value


def is_as_planned(module: nn.Module, run: Run) -> bool:
    """Say whether a module, called as recorded, calls its functions with the planned windows."""
    try:
        recording = record_mode(setup_alone(module, run), run.flow.recording.training)
    except FxfeatError:
        return False
    sites = call_sites(recording, 0)
    if len(sites) != run.sites:
        return False
    return all(_is_done(change, read_window(recording, sites[index])) for index, change in run.changes.items())


def _is_done(change: Change, actual: Window | None) -> bool:
    """Say whether a call does what was planned; one that pads otherwise than before follows settings by itself."""
    if change.before.kind == "pad" and actual is not None:
        return actual.pads != change.before.pads
    return actual == change.after


def windows_of(recording: Recording) -> list[Window]:
    """List the windows of a recording in the order in which they run."""
    windows = (read_window(recording, node) for node in recording.graph.nodes)
    return [window for window in windows if window is not None and window.kind != "pad"]
