"""Write a module's ``forward`` out as code in which calls of functions have other arguments."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

from torch import fx, nn

from fxfeat.codegen.emit import emit
from fxfeat.codegen.extractor import build_extractor
from fxfeat.errors import RequestError, TraceError
from fxfeat.guards.free_sizes import find_free_sizes, find_input_guards
from fxfeat.ir.draft import Draft
from fxfeat.ir.emission import Emission, ModeVariants, Source
from fxfeat.ir.example import Example
from fxfeat.ir.recording import Recording
from fxfeat.names.query import NamedValue, find
from fxfeat.names.request import select_feature
from fxfeat.names.table import name_nodes
from fxfeat.passes.run_passes import rewrite
from fxfeat.stride.change import Change
from fxfeat.stride.dense import convolve, leave_out, pool_average, pool_max
from fxfeat.stride.module_runs import Changes, Run, call_sites, setup_alone
from fxfeat.stride.read_windows import arguments_of
from fxfeat.stride.windows import Window, ends_of, even_pads, fits_pool
from fxfeat.trace.setup import Setup, record_mode, record_variant

_OUTPUT = "output"


def write_out(original: nn.Module, module: nn.Module, runs: dict[bool, Run]) -> nn.Module:
    """Make a module with the same children and tensors, and a ``forward`` of recorded code.

    Args:
        original: the module as it was recorded.
        module: the module that is to be replaced, whose children are changed already.
        runs: a call of it in each mode that the model runs in.

    Raises:
        TraceError: where its ``forward`` cannot be written out.
    """
    forms: dict[bool, Emission | TraceError] = {}
    for training, run in runs.items():
        forms[training] = _emit(setup_alone(original, run), training, run)
    for training in {True, False} - set(forms):
        forms[training] = TraceError(
            f"{type(module).__name__} was not recorded in {'train' if training else 'eval'} mode."
        )
    written = build_extractor(ModeVariants(forms[True], forms[False]), module)
    for table in ("_modules", "_parameters", "_buffers"):
        # Everything, not only what is called: the names in state_dict() are the module's own.
        written.__dict__[table] = dict(module.__dict__[table])
    written.__dict__["_non_persistent_buffers_set"] = set(module._non_persistent_buffers_set)
    _keep_settings(module, written)
    return written


def _keep_settings(module: nn.Module, written: nn.Module) -> None:
    """Keep what else the module says of itself, such as a configuration."""
    for name, value in vars(module).items():
        if not name.startswith("_") and name not in vars(written) and not hasattr(type(written), name):
            written.__dict__[name] = value


def _emit(setup: Setup, training: bool, run: Run) -> Emission:
    recording = record_mode(setup, training)
    draft = _draft(recording, run)
    emission = emit(rewrite(draft)[0])

    def emit_at(example: Example) -> Emission:
        return emit(rewrite(_draft(record_variant(setup, recording, training, example), run))[0])

    freedoms = find_free_sizes(recording, setup.examples[0], emission, emit_at)
    pins = find_input_guards(freedoms)
    if pins:
        emission = emit(rewrite(dataclasses.replace(draft, input_guards=pins))[0])
    return dataclasses.replace(emission, freedoms=freedoms, source=_return_plainly(emission.source))


def _draft(recording: Recording, run: Run) -> Draft:
    sites = call_sites(recording, 0)
    if len(sites) == run.sites:
        change_calls(sites, run.changes)
    output = find(recording, name_nodes(recording), _OUTPUT)
    assert isinstance(output, NamedValue)
    try:
        feature = select_feature(recording, output, _OUTPUT)
    except RequestError as error:
        raise TraceError(f"The code of {run.module_call.path!r} cannot be written out: {error}") from error
    return Draft(recording, recording.graph, (feature,))


def _return_plainly(source: Source) -> Source:
    """Return the value itself in place of a dict of one."""
    head, _, tail = source.text.rpartition(f"return {{{_OUTPUT!r}: ")
    return dataclasses.replace(source, text=f"{head}return {tail.rstrip().removesuffix('}')}\n")


def change_calls(sites: list[fx.Node], changes: Changes) -> None:
    """Change the arguments of calls of functions in place."""
    for index, change in changes.items():
        node = sites[index]
        node.target, node.args, node.kwargs = _call(node, change)


def _call(node: fx.Node, change: Change) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    window = change.after
    if window.kind == "slice":
        return operator.getitem, (node.args[0], _index(node.args[1], change)), {}
    given = arguments_of(node, window.kind)
    if change.dropped:
        return leave_out, (given["input"],), {}
    if window.kind == "pad":
        settings = {name: given[name] for name in given if name in ("mode", "value")}
        return node.target, (given["input"], ends_of(window)), settings
    return {"conv": _convolution, "max": _max_pool, "average": _average_pool}[window.kind](node, given, window)


def _convolution(node: fx.Node, given: dict[str, Any], window: Window) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    tensors = (given["input"], given["weight"], given.get("bias"))
    settings = {"stride": window.stride, "dilation": window.dilation, "groups": given.get("groups", 1)}
    even = even_pads(window)
    if even is not None:
        return node.target, tensors, {**settings, "padding": even}
    return convolve, (*tensors, tuple(ends_of(window))), settings


def _max_pool(node: fx.Node, given: dict[str, Any], window: Window) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    even = even_pads(window)
    settings: dict[str, Any] = {"stride": window.stride, "dilation": window.dilation}
    if even is None or not fits_pool(window):
        return pool_max, (given["input"], window.kernel, tuple(ends_of(window))), settings
    settings |= {"padding": even, "ceil_mode": window.ceil}
    return node.target, (given["input"], window.kernel), settings


def _average_pool(node: fx.Node, given: dict[str, Any], window: Window) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    even = even_pads(window)
    if even is None or max(window.dilation) > 1:
        dense: dict[str, Any] = {"stride": window.stride, "dilation": window.dilation}
        dense |= {"counted": window.counts_pads, "divisor": window.divisor}
        return pool_average, (given["input"], window.kernel, tuple(ends_of(window))), dense
    settings: dict[str, Any] = {"stride": window.stride, "padding": even, "ceil_mode": window.ceil}
    settings |= {"count_include_pad": window.counts_pads, "divisor_override": window.divisor}
    return node.target, (given["input"], window.kernel), settings


def _index(index: Any, change: Change) -> Any:
    """Write a slice with the steps that are left of it."""
    left = dict(zip(change.before.stride, change.after.stride, strict=True))

    def settle(part: Any) -> Any:
        if not isinstance(part, slice) or part.step in (None, 1):
            return part
        return slice(part.start, part.stop, left[part.step] if left[part.step] > 1 else None)

    return tuple(settle(part) for part in index) if isinstance(index, tuple) else settle(index)
